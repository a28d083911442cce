"""RESM (first called R-TSVM): TSVM with experts weighted by their outliers and ranks by the layer's density.

"Mix Data or Merge Models? Balancing the Helpfulness, Honesty, and Harmlessness of Large Language Model via
Model Merging" (arXiv 2502.06876; R-TSVM in its versions 1 and 2, RESM in version 3). Its abstracts name two
additions to TSVM (arXiv 2412.00081): weights that know outliers, because what preference training changes is
heavy-tailed, and a rank for each layer that adapts to its sparsity. **The paper's equations were not verified
and there is no official code: what follows is our reading of these two ideas, not the authors' formulas.**

With D_t = W_t − W_0 [m, n], T experts, q = min(m, n), and over the entries of row i the mean μ and the
standard deviation s of |D_t[i, j]|:

    O_t[i] = Σ_j |D_t[i, j]| where it exceeds μ + σ s               (``sigma`` = 3)
    w_t[i] = T (O_t[i] + ε) / Σ_s (O_s[i] + ε), clipped             (``weight_min``, ``weight_max``, ``eps``)
    emphasise: D'_t = diag(w_t) D_t        rows where one expert has a clear signal and others noise
    suppress:  D'_t[i, j] = D_t[i, j] clipped to ± (μ + σ s)        the literal taming of outliers
    off:       D'_t = D_t

    ρ_t = share of entries with |D_t[i, j]| ≥ τ · root mean square  (``tau`` = 0.1)
    adaptive:  r_t = round(q / T · ρ_t / ρ̄_t), from 1 to the rank of D_t; shrunk in proportion to q in all
    uniform:   r_t = ⌊q / T⌋

and then TSVM on D'_t with the ranks r_t; ``off`` with ``uniform`` is TSVM. ρ̄_t is the mean of ρ_t over the
model's matrices that expert t changed, so that a denser layer than most gets more directions. ρ_t is noted.

It costs what TSVM costs, and two passes over the weights; with ``adaptive`` the model is read once more
before the first tensor is merged. The outliers and densities of LoRA experts need their product.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Literal

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.merge._group import Merged, TensorGroup
from trivet.merge._matrices import (
    OrthogonalizedConfig,
    added,
    is_matrix,
    leading,
    mean,
    split_alpha,
    task_matrices,
)
from trivet.merge._spectral import TaskMatrix
from trivet.merge.tsvm import merge_triplets


class Config(OrthogonalizedConfig):
    """How experts are weighted and directions shared out, on top of TSVM's settings."""

    outliers: Literal["emphasise", "suppress", "off"] = Field(
        "emphasise",
        description="weight rows by their outliers, clip outliers, or leave the task vectors alone",
    )
    sigma: float = Field(
        3.0, ge=0, le=100, description="standard deviations above the mean magnitude where an outlier begins"
    )
    weight_min: float = Field(0.25, ge=0, le=1, description="least weight of a row")
    weight_max: float = Field(4.0, ge=1, le=1000, description="greatest weight of a row")
    eps: float = Field(
        1e-8, gt=0, le=1, description="added to each outlier mass; rows without outliers weigh 1"
    )
    allocation: Literal["adaptive", "uniform"] = Field(
        "adaptive", description="share directions out by density, or alike as TSVM does"
    )
    tau: float = Field(
        0.1, ge=0, le=100, description="entries count as present from this multiple of the root mean square"
    )


def outlier_masses(delta: torch.Tensor, sigma: float) -> torch.Tensor:
    """O [m] of D [m, n]: the sum of a row's magnitudes above mean + ``sigma`` standard deviations."""
    magnitudes = delta.abs()
    return torch.where(magnitudes > _threshold(magnitudes, sigma), magnitudes, 0.0).sum(dim=1)


def row_weights(
    deltas: Sequence[torch.Tensor], *, sigma: float, eps: float, low: float, high: float
) -> list[torch.Tensor]:
    """w_t [m, 1] of each D_t [m, n]: before clipping they sum to T in each row."""
    masses = torch.stack([outlier_masses(delta, sigma) for delta in deltas]) + eps  # [T, m]
    weights = (len(deltas) * masses / masses.sum(dim=0)).clamp_(low, high)
    return list(weights.unsqueeze(2))


def winsorized(delta: torch.Tensor, sigma: float) -> torch.Tensor:
    """D [m, n] with each row clipped to ± (mean + ``sigma`` standard deviations of its magnitudes)."""
    limit = _threshold(delta.abs(), sigma)
    return delta.clamp(-limit, limit)


def density(delta: torch.Tensor, tau: float) -> float:
    """Share of entries with a magnitude of at least ``tau`` times the root mean square; 0 if all are 0."""
    root = float(torch.linalg.vector_norm(delta, dtype=torch.float64)) / math.sqrt(delta.numel())
    return float((delta.abs() >= tau * root).double().mean()) if root else 0.0


def mean_densities(config: Config, groups: Iterable[TensorGroup]) -> list[float]:
    """ρ̄ of each expert: the mean density of its task vectors over the matrices that it changed."""
    rows = [
        [density(delta, config.tau) for delta in group.whole().deltas]
        for group in groups
        if is_matrix(config, group)
    ]
    changed = [[rho for rho in column if rho] for column in zip(*rows, strict=True)]
    return [fmean(column) if column else 0.0 for column in changed]


def apportioned(ranks: Sequence[int], total: int) -> list[int]:
    """``ranks``, where they sum to more than ``total`` shrunk in proportion to it, by largest remainders."""
    if sum(ranks) <= total:
        return list(ranks)
    quotas = [rank * total / sum(ranks) for rank in ranks]
    shrunk = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(ranks)), key=lambda place: (shrunk[place] - quotas[place], place))
    for place in order[: total - sum(shrunk)]:
        shrunk[place] += 1
    return shrunk


def reweighted(
    config: Config, matrices: Sequence[TaskMatrix], deltas: Sequence[torch.Tensor]
) -> list[TaskMatrix]:
    """D'_t of each D_t, given as ``matrices`` and, [m, n], as ``deltas``."""
    if config.outliers == "suppress":
        return [TaskMatrix(winsorized(delta, config.sigma)) for delta in deltas]
    weights = row_weights(
        deltas, sigma=config.sigma, eps=config.eps, low=config.weight_min, high=config.weight_max
    )
    return [matrix.scaled(weight) for matrix, weight in zip(matrices, weights, strict=True)]


def wanted_ranks(config: Config, tensor: TensorGroup, deltas: Sequence[torch.Tensor]) -> list[int]:
    """r_t by density, before the rank of D_t and their sum bound it. The densities go into the notes."""
    share = min(tensor.rows, tensor.columns) / tensor.count
    found = [density(delta, config.tau) for delta in deltas]
    tensor.notes["layer_density"] = found
    key = f"resm density tau={config.tau} exclude={config.exclude}"
    averages = tensor.model().once(key, lambda: mean_densities(config, tensor.model().groups()))
    return [
        max(1, round(share * rho / average)) if rho else 0
        for rho, average in zip(found, averages, strict=True)
    ]


@method(paper="2502.06876", version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """TSVM on the reweighted task vectors D'_t with the ranks r_t.

    Raises:
        MergeError: the recipe has no base, or a task vector is not finite.
    """
    tensor.require_base()
    factors, alpha = split_alpha(config, tensor.count)
    directions = min(tensor.rows, tensor.columns)
    if tensor.count == 1 or directions < tensor.count or not is_matrix(config, tensor):
        return mean(factors, alpha)
    matrices = task_matrices(tensor, [1.0] * tensor.count)
    ranks = [directions // tensor.count] * tensor.count
    if config.outliers != "off" or config.allocation == "adaptive":
        deltas = [matrix.dense() for matrix in matrices]
        if config.outliers != "off":
            matrices = reweighted(config, matrices, deltas)
        if config.allocation == "adaptive":
            ranks = wanted_ranks(config, tensor, deltas)
    # Factors come last: outliers are compared between task vectors as the experts made them.
    matrices = [
        matrix if factor == 1 else matrix.scaled(factor)
        for matrix, factor in zip(matrices, factors, strict=True)
    ]
    parts = [
        leading(tensor, config, matrix, min(rank, directions))
        for matrix, rank in zip(matrices, ranks, strict=True)
    ]
    kept = apportioned([len(part.S) for part in parts], directions)
    merged = merge_triplets(
        tensor, config, [part.truncated(rank) for part, rank in zip(parts, kept, strict=True)]
    )
    return mean(factors, alpha) if merged is None else added(merged, alpha)


def _threshold(magnitudes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Mean + ``sigma`` standard deviations of each row, [m, 1]."""
    deviation, average = torch.std_mean(magnitudes, dim=1, correction=0, keepdim=True)
    return average + sigma * deviation
