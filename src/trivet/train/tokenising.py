"""From rows of a data set to token ids, as TRL makes them, with what was cut or dropped counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from trivet.errors import DataError
from trivet.models.operations import Tokens
from trivet.models.torch_engine.kv_tree import common_length
from trivet.train.batches import Example
from trivet.train.preferences import Pair


@dataclass(frozen=True)
class Tokenised:
    """Examples, the rows that were dropped by reason, and how many answers were cut at ``max_length``."""

    examples: Sequence[Example]
    dropped: Mapping[str, int] = field(default_factory=dict)
    cut: int = 0

    def notes(self) -> list[str]:
        """What a user should know, in sentences."""
        said = [f"{count} rows dropped: {reason}" for reason, count in self.dropped.items()]
        if self.cut:
            answers = sum(len(example.answers) for example in self.examples)
            said.append(
                f"{self.cut} of {answers} answers cut at max_length: they no longer end with an "
                "end-of-sequence token"
            )
        return said


def tokenise_pairs(pairs: Sequence[Pair], tokenizer: Any, *, max_length: int | None) -> Tokenised:
    """Token ids of prompt, chosen and rejected answer.

    As TRL 1.16 does it: the prompt with the generation prompt, and the whole conversation, each through the
    chat template; the answer begins where the two part. Texts are joined as they stand, and an end-of-
    sequence token follows the answer. Answers are cut so that with the prompt
    they have at most ``max_length`` tokens.

    Raises:
        DataError: no pair is left, or the tokenizer has no chat template for messages.
    """
    examples, dropped, cut = [], Counter[str](), 0
    for row, pair in enumerate(pairs):
        prompt, answers = _tokens(pair, tokenizer, row)
        if not prompt:
            dropped["the prompt has no tokens"] += 1
            continue
        if max_length is not None and len(prompt) >= max_length:
            dropped[f"the prompt alone has {max_length} tokens or more (max_length)"] += 1
            continue
        if not all(answers):
            dropped["an answer has no tokens"] += 1
            continue
        room = None if max_length is None else max_length - len(prompt)
        cut += sum(room is not None and len(answer) > room for answer in answers)
        examples.append(Example(row, prompt, tuple(answer[:room] for answer in answers)))
    if not examples:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.items())
        raise DataError(f"no pair is left to train on: {reasons}", hint="raise max_length")
    return Tokenised(examples, dict(dropped), cut)


def _tokens(pair: Pair, tokenizer: Any, row: int) -> tuple[Tokens, list[Tokens]]:
    if isinstance(pair["prompt"], str):
        end = tokenizer.eos_token or ""
        texts = [text if text.endswith(end) else text + end for text in (pair["chosen"], pair["rejected"])]
        prompt = tuple(tokenizer(pair["prompt"])["input_ids"])
        whole = [tuple(tokenizer(pair["prompt"] + text)["input_ids"]) for text in texts]
    else:
        prompt = template_tokens(pair["prompt"], tokenizer, row, add_generation_prompt=True)
        whole = [
            template_tokens(pair["prompt"] + pair[side], tokenizer, row) for side in ("chosen", "rejected")
        ]
    shared = min(common_length(prompt, one) for one in whole)
    return prompt[:shared], [one[shared:] for one in whole]


def template_tokens(messages: list[dict[str, str]], tokenizer: Any, row: int, **options: Any) -> Tokens:
    """The tokens of a conversation through the chat template.

    Raises:
        DataError: there is no template, or it refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "the rows are messages, but the model has no chat template",
            hint="use an instruction-tuned model, or rows whose prompt, chosen and rejected are texts",
        )
    try:
        return tuple(tokenizer.apply_chat_template(messages, return_dict=False, **options))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"the chat template refuses the messages: {error}", where=f"row {row + 1}") from error
