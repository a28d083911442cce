"""Mixing next-token distributions of several models (emulated fine-tuning, arXiv 2310.12962).

All functions work on natural logarithms of probabilities. Sums are taken in float64, so that a model which is
added and subtracted again leaves nothing behind, and come back as float32, the type of an engine's logits.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import torch

from trivet.models.torch_engine.sampling import filtered

_PLACES = 12  # decimals of a coefficient; what is beyond is rounding, as in 1 − (0.1 + 0.2 + 0.7)

Key = TypeVar("Key", bound=Hashable)


def coefficients(
    large: Key, base: Key, tuned: Mapping[Key, float], beta: float
) -> tuple[dict[Key, float], dict[Key, float]]:
    """What each model's log-probabilities are multiplied by, in the mixture and in that of the small models.

    With weights λ (``tuned``: model → λ) the mixture is log π_large + β Σ λ_i (log π_i − log π_base), and
    the small models' own is log π_base + β Σ λ_i (log π_i − log π_base). Models with equal keys are one
    model, and those whose terms cancel are left out of either.
    """
    target: dict[Key, float] = {large: 1.0}
    small: dict[Key, float] = {base: 1.0}
    for mixture in (target, small):
        for key, weight in tuned.items():
            mixture[key] = mixture.get(key, 0.0) + beta * weight
            mixture[base] = mixture.get(base, 0.0) - beta * weight
    return _kept(target), _kept(small)


def _kept(mixture: dict[Key, float]) -> dict[Key, float]:
    rounded = {key: round(value, _PLACES) for key, value in mixture.items()}
    return {key: value for key, value in rounded.items() if value}


def combined(logprobs: Sequence[torch.Tensor], factors: Sequence[float]) -> torch.Tensor:
    """log softmax of Σ factor · logprob: float32 [..., vocabulary].

    Args:
        logprobs: one tensor [..., vocabulary] a model. A constant added to one changes nothing, except that a
            single model with factor 1 comes back as it is, bit by bit.
        factors: one a model. A token that one of the models does not have (minus infinity) stays impossible.
    """
    if len(logprobs) == 1 and factors[0] == 1.0:
        return logprobs[0]
    total = factors[0] * logprobs[0].double()
    for logprob, factor in zip(logprobs[1:], factors[1:]):
        total += factor * logprob.double()
    return _normalised(total)


def conservative(small: torch.Tensor, large: torch.Tensor, base: torch.Tensor, top_p: float) -> torch.Tensor:
    """Up-scaling of likely tokens only: float32 [vocabulary].

    log π̃ = log π_small + 1[y in P] (log π_large − log π_base), where P is the smallest set of tokens whose
    mass under ``small`` reaches ``top_p``. Outside of it the ratio of two tiny probabilities is noise.
    """
    likely = filtered(small[None].clone(), top_k=[0], top_p=[top_p], min_p=[0.0])[0] > -torch.inf
    ratio = large.double() - base.double()
    return _normalised(small.double() + torch.where(likely, ratio, torch.zeros_like(ratio)))


def _normalised(total: torch.Tensor) -> torch.Tensor:
    total = total.masked_fill(~total.isfinite(), -torch.inf)
    return (total - torch.logsumexp(total, dim=-1, keepdim=True)).float()
