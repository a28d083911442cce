"""Speculative sampling: draw from a cheap distribution, accept or correct by an expensive one.

"Fast Inference from Transformers via Speculative Decoding" (Leviathan et al., arXiv 2211.17192, Algorithm 1):
a token d drawn from q is kept with probability min(1, p(d) / q(d)), otherwise a token is drawn from
normalise((p − q)₊). What comes out is distributed as p, whatever q is; q only decides how often a token is
kept, which is 1 − ½ Σ |p − q|.
"""

import torch

from trivet.models.torch_engine.sampling import pick


def accepts(p: torch.Tensor, q: torch.Tensor, token: int, uniform: float) -> bool:
    """Whether ``token``, drawn from ``q``, is kept.

    ``p``, ``q``: float64 [vocabulary]; ``uniform``: a number in [0, 1).
    """
    return bool(uniform * float(q[token]) < float(p[token]))


def corrected(p: torch.Tensor, q: torch.Tensor, uniform: float) -> int:
    """The token in place of one that was not kept: drawn from what ``p`` has more than ``q``."""
    residual = (p - q).clamp_min(0.0)
    if not float(residual.sum()) > 0:  # equal up to rounding
        residual = p
    return int(pick(residual[None], [uniform])[0])


def acceptance(p: torch.Tensor, q: torch.Tensor) -> float:
    """The probability that a token drawn from ``q`` is kept."""
    return float(torch.minimum(p, q).sum())


def expected_tokens(rate: float, count: int) -> float:
    """Tokens that a block of ``count`` drafted ones gives on average: (1 − α^(k+1)) / (1 − α) (Equation 1).

    ``rate``: probability α that one is kept, taken as independent of its place.
    """
    return float(count + 1) if rate >= 1 else (1 - rate ** (count + 1)) / (1 - rate)
