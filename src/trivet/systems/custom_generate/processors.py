"""Logits processors of transformers as logits transforms, so that they act under every decoding method.

``generate`` hands over one list: what its own settings made (repetition penalty, minimum lengths, …), then
the caller's processors, then what ``do_sample`` made (temperature and filters). The last group is the
request's ``Sampling``; all others are applied here, in their order.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from trivet.errors import UnsupportedError

_DRAWING = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
# They remember the steps of one sequence, or hold what belongs to the whole batch.
_REFUSED = (
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    EncoderNoRepeatNGramLogitsProcessor,
)


def without_drawing(processors: Sequence[Any], generation_config: Any) -> list[Any]:
    """The processors but for those that temperature and filters of ``generation_config`` made.

    Raises:
        UnsupportedError: one of them cannot run on single rows.
    """
    kept = list(processors)
    if kept and generation_config.renormalize_logits and type(kept[-1]) is LogitNormalization:
        kept.pop()  # nothing is drawn differently
    if generation_config.do_sample:
        made = (
            generation_config.temperature not in (None, 1.0),
            generation_config.top_k not in (None, 0),
            generation_config.top_p is not None and generation_config.top_p < 1.0,
            generation_config.min_p is not None,
        )
        for kind in reversed([kind for kind, there in zip(_DRAWING, made, strict=True) if there]):
            if not kept or type(kept[-1]) is not kind:
                raise UnsupportedError(f"the logits processors do not end with {kind.__name__}")
            kept.pop()
    for processor in kept:
        if isinstance(processor, _REFUSED):
            raise UnsupportedError(f"the logits processor {type(processor).__name__} is not supported")
    return kept


class RowProcessors:
    """Logits processors on one row: a ``LogitsTransform``.

    Each is called with ``input_ids`` [1, length], padded on the left as the row is, and scores
    [1, vocabulary]: what it would see in ``generate``. A method that searches calls it for many continuations
    of one prompt in any order, so its result must depend on its arguments alone.

    Args:
        processors: in order.
        index: of the row in the batch.
        padding: the tokens on the left that are not part of the prompt.
        device: where the processors expect their tensors.
    """

    def __init__(
        self, processors: Sequence[Any], *, index: int, padding: Sequence[int], device: torch.device
    ) -> None:
        self._padding, self._device = tuple(padding), device
        self._processors = [_for_row(processor, index, len(self._padding)) for processor in processors]

    def __call__(self, tokens: Sequence[int], prompt_length: int, logits: torch.Tensor) -> torch.Tensor:
        """``logits`` [vocabulary] after ``tokens``, as all processors in turn leave them."""
        with torch.no_grad():
            row = torch.tensor([(*self._padding, *tokens)], dtype=torch.long, device=self._device)
            scores = logits[None].to(self._device)
            for processor in self._processors:
                scores = processor(row, scores)
            return scores[0].to(logits.device)


def _for_row(processor: Any, index: int, padding: int) -> Any:
    """The processor for a batch that is one row of the whole one."""
    if type(processor) is RepetitionPenaltyLogitsProcessor:
        ignored = processor.prompt_ignore_length
        if isinstance(ignored, torch.Tensor):  # one number for each row of the batch
            return RepetitionPenaltyLogitsProcessor(processor.penalty, padding)
    if type(processor) is PrefixConstrainedLogitsProcessor:
        allowed = processor._prefix_allowed_tokens_fn
        return PrefixConstrainedLogitsProcessor(lambda _, tokens: allowed(index, tokens), 1)
    return processor
