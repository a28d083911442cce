"""Tokenised prompts with their answers, and the batches that a model scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trivet.models.operations import Tokens
from trivet.train.shared_prompts import Layout


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with one or more answers, as token ids; an answer ends with its end-of-sequence token.

    ``row`` is its place among the rows of the data set, from 0; it names the example in messages.
    """

    row: int
    prompt: Tokens
    answers: tuple[Tokens, ...]

    @property
    def length(self) -> int:
        """Tokens that a packed row holds of it."""
        return len(self.prompt) + sum(map(len, self.answers))


def model_inputs(examples: Sequence[Example], *, packed: bool, padding: int) -> dict[str, Any]:
    """What a model that scores answers is called with.

    The answers' tokens are in the order of the examples, and of the answers within one.

    Args:
        packed: in one row without padding, each prompt once; else each answer with its prompt in a row of its
            own, padded on the right.
        padding: the token that pads.
    """
    make = _packed if packed else _padded
    tokens = [torch.tensor(answer) for example in examples for answer in example.answers]
    return {**make(examples, padding), "answer_tokens": torch.cat(tokens)}


def owners(examples: Sequence[Example]) -> torch.Tensor:
    """For each answer token, the number of its answer, counted through the batch."""
    lengths = [len(answer) for example in examples for answer in example.answers]
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def _packed(examples: Sequence[Example], padding: int) -> dict[str, Any]:
    layout = Layout.of([(len(one.prompt), [len(answer) for answer in one.answers]) for one in examples])
    row = [token for one in examples for part in (one.prompt, *one.answers) for token in part]
    index: list[int] = []
    for group in layout.groups:
        last, start = group.start + group.prompt - 1, group.start + group.prompt
        for answer in group.answers:  # the first token is predicted from the prompt's last
            index += [last, *range(start, start + answer - 1)]
            start += answer
    return {
        "input_ids": torch.tensor([row]),
        "position_ids": layout.positions(),
        "trivet_layout": layout,
        "answer_index": torch.tensor(index),
    }


def _padded(examples: Sequence[Example], padding: int) -> dict[str, Any]:
    rows = [(one.prompt, answer) for one in examples for answer in one.answers]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens = torch.full((len(rows), width), padding)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    index: list[int] = []
    for number, (prompt, answer) in enumerate(rows):
        length = len(prompt) + len(answer)
        tokens[number, :length] = torch.tensor([*prompt, *answer])
        mask[number, :length] = 1
        index += range(number * width + len(prompt) - 1, number * width + length - 1)
    return {"input_ids": tokens, "attention_mask": mask, "answer_index": torch.tensor(index)}
