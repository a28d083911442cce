"""Losses on the implicit rewards of preference pairs.

With the log-ratio of an answer log π_θ(y|x) − log π_ref(y|x), weighted by token where a method says so, and
an optional margin m for each answer, the logit of a pair is

    h = β · (ratio_chosen − ratio_rejected) − (m_chosen − m_rejected)

"Direct Preference Optimization" (arXiv 2305.18290) with m = 0. The margins are those of MODPO (arXiv
2310.03708), where β is β / w_k and m is w_−k · r_−k / w_k.
"""

from typing import Literal

import torch
from torch.nn.functional import logsigmoid

LossType = Literal["sigmoid", "hinge"]


def length_weights(owners: torch.Tensor, alpha: float) -> torch.Tensor:
    """Weight of each answer token: 1 up to the length of the shorter answer of its pair, ``alpha`` beyond.

    log π̂(y|x) = Σ_{i ≤ l_p} log p_i + α · Σ_{i > l_p} log p_i with l_p = min(|y_w|, |y_l|), "Length
    Desensitization in Direct Preference Optimization" (arXiv 2409.06411).

    Args:
        owners: number of the answer that each token belongs to [tokens], ascending; answers 2i and 2i + 1 are
            a pair.
        alpha: 0 to 1; 1 is plain DPO.
    """
    lengths = torch.bincount(owners)
    starts = lengths.cumsum(0) - lengths
    place = torch.arange(len(owners), device=owners.device) - starts[owners]
    shorter = lengths.view(-1, 2).min(dim=1).values.repeat_interleave(2)
    return torch.where(place < shorter[owners], 1.0, alpha)


def answer_sums(values: torch.Tensor, owners: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Sum over the tokens of each answer, weighted; [answers]."""
    weighted = values if weights is None else values * weights
    sums = torch.zeros(int(owners[-1]) + 1, dtype=values.dtype, device=values.device)
    return sums.index_add(0, owners, weighted)


def pair_logits(rewards: torch.Tensor, margins: torch.Tensor | None) -> torch.Tensor:
    """h of each pair [pairs], from the rewards and margins of its answers [2 · pairs], chosen first."""
    rest = rewards if margins is None else rewards - margins
    chosen, rejected = rest.view(-1, 2).unbind(dim=1)
    return chosen - rejected


def pair_losses(logits: torch.Tensor, kind: LossType) -> torch.Tensor:
    """Loss of each pair: −log σ(h), or max(0, 1 − h).

    Raises:
        ValueError: another kind.
    """
    if kind == "sigmoid":
        return -logsigmoid(logits)
    if kind == "hinge":
        return torch.relu(1 - logits)
    raise ValueError(f"unknown loss {kind!r}")
