"""A sequence classifier that gives the scores of answers, with the prompt of several answers computed once.

``score_by_head(model)`` lets ``model(...)`` take a batch of ``score_inputs``: it then returns one score an
answer, read where ``AutoModelForSequenceClassification`` reads it: at the last token that is not the padding
token. Where the end-of-sequence token pads, as in many tokenizers, that is the token before it.
"""

import types
from collections.abc import Sequence
from typing import Any

import torch

from trivet.errors import UnsupportedError
from trivet.models.classifiers import HEAD
from trivet.models.operations import Tokens
from trivet.train.batches import Example, model_inputs
from trivet.train.scoring import causal_model


def score_inputs(examples: Sequence[Example], *, packed: bool, padding: int) -> dict[str, Any]:
    """What a model that scores by its head is called with; scores come in the order of the answers.

    Args:
        packed, padding: see ``trivet.train.batches.model_inputs``.
    """
    inputs = model_inputs(examples, packed=packed, padding=padding)
    del inputs["answer_index"], inputs["answer_tokens"]
    width = inputs["input_ids"].shape[1]
    places: list[int] = []
    start = 0
    for one in examples:
        before = start + len(one.prompt)
        for answer in one.answers:
            first = before if packed else len(places) * width + len(one.prompt)
            places.append(first + last_read(answer, padding))
            before += len(answer)
        start += one.length
    return {**inputs, "score_index": torch.tensor(places)}


def last_read(answer: Tokens, padding: int) -> int:
    """The place in an answer at which its score is read: its last token that does not pad.

    Returns:
        From 0; -1 where every token pads.
    """
    return next((place for place in reversed(range(len(answer))) if answer[place] != padding), -1)


def score_by_head(model: Any) -> None:
    """Let the classifier score answers; see the module.

    Raises:
        UnsupportedError: it is not a decoder with a linear head on its last hidden states.
    """
    inner = causal_model(model)
    decoder = getattr(inner, inner.base_model_prefix, None)
    if decoder is None or not hasattr(inner, HEAD):
        raise UnsupportedError(
            f"{type(inner).__name__} is not a decoder with the head {HEAD!r}, which reward models here are"
        )
    plain = inner.forward

    def forward(self: Any, *arguments: Any, score_index: torch.Tensor | None = None, **inputs: Any) -> Any:
        if score_index is None:
            return plain(*arguments, **inputs)
        hidden = decoder(*arguments, use_cache=False, **inputs).last_hidden_state
        return getattr(self, HEAD)(hidden.flatten(0, 1)[score_index])[:, 0].float()

    inner.forward = types.MethodType(forward, inner)
