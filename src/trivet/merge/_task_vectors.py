"""Combining task vectors: weighted sums, sign election, and adding the result to the base."""

from collections.abc import Sequence

import torch

from trivet.merge._settings import TaskVectorConfig

_NO_WEIGHT = 1e-8


def weighted_sum(deltas: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Σ_t w_t D_t in the order of the experts; ``deltas`` all of one shape, at least one."""
    total = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total.add_(delta, alpha=weight)
    return total


def elected_sum(deltas: Sequence[torch.Tensor], weights: Sequence[float], *, normalize: bool) -> torch.Tensor:
    """The disjoint merge of TIES (arXiv 2306.01708, section 3.2): at each place, only what agrees in sign.

    The elected sign is that of Σ_t w_t D_t (plus where the sum is 0); the result sums w_t D_t over the
    experts with that sign, and with ``normalize`` divides by the sum of their weights.
    """
    weighted = [
        delta * weight if weight != 1 else delta for delta, weight in zip(deltas, weights, strict=True)
    ]
    sign = weighted[0] + weighted[1] if len(weighted) > 1 else weighted[0].clone()
    for delta in weighted[2:]:
        sign.add_(delta)
    torch.copysign(sign.new_ones(()), sign, out=sign)
    total = torch.zeros_like(sign)
    divisor = torch.zeros_like(sign) if normalize else None
    agreeing = torch.empty_like(sign)
    for delta, weight in zip(weighted, weights, strict=True):
        torch.mul(delta, sign, out=agreeing).relu_()  # its magnitude where it agrees, else 0
        total.add_(agreeing)
        if divisor is not None:
            divisor.add_(agreeing.sign_(), alpha=weight)
    total.mul_(sign)
    return total if divisor is None else _divided(total, divisor, positive=min(weights) > 0)


def _divided(total: torch.Tensor, divisor: torch.Tensor, *, positive: bool) -> torch.Tensor:
    """``total / divisor``, and ``total`` where the divisor is 0.

    With positive weights the divisor is 0 only where nothing took part and the total is 0 too, so that any
    other divisor will do, which is faster than looking for the zeros.
    """
    if positive:
        return total.div_(divisor.clamp_(min=torch.finfo(torch.float32).tiny))
    return total.div_(divisor.masked_fill_(divisor == 0, 1.0))


def plain_sum(deltas: Sequence[torch.Tensor], weights: Sequence[float], *, normalize: bool) -> torch.Tensor:
    """Σ_t w_t D_t, with ``normalize`` divided by Σ_t w_t (by 1 where that is 0)."""
    # Products are rounded before they are added, as mergekit's are; a fused operation is a last place off.
    total = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total.add_(delta * weight)
    whole = sum(weights)
    return total.div_(whole) if normalize and abs(whole) >= _NO_WEIGHT else total


def add_to_base(base: torch.Tensor, combined: torch.Tensor, config: TaskVectorConfig) -> torch.Tensor:
    """W_0 + λ · ``combined``, which is overwritten."""
    if config.lambda_ != 1:
        combined.mul_(config.lambda_)
    return combined.add_(base)
