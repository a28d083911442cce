"""Iso-CTS: a common subspace of all experts and a subspace of each, all directions equally strong.

"No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces" (arXiv 2502.04959).
Iso-C keeps the singular directions of the summed task matrices; the weakest of these say little about any
task. Iso-CTS replaces them by the strongest directions that each expert has outside the common ones. With
q = min(m, n), T experts and the share f = ``common_space_fraction`` of common directions:

    s = round((q − ⌊f q⌋) / T) directions for each task, k = q − T s common ones
    Σ_t D_t = U Σ Vᵀ;  U_c, V_c, σ_c: its first k singular triplets
    (I − U_c U_cᵀ) D_t = U_t Σ_t V_tᵀ;  the first s triplets of each
    U = [U_1 … U_T U_c], V likewise; U_⊥, V_⊥ = the nearest matrices with orthonormal columns (polar factors)
    W = W_0 + α σ̄ U_⊥ V_⊥ᵀ,   σ̄ = the mean of all kept singular values

The paper takes f = 0.8 and picks α on held-out data, from 0.1 to 3. f = 1 is Iso-C. Vectors, embeddings and
the output layer (``exclude``) take the mean of the task vectors. No triplet beyond a matrix's numerical rank
is kept, except with ``rank: official``, which keeps the formula's numbers as the official code does. Where
the experts' own directions nearly coincide the polar factor is decided by rounding; such a tensor takes the
mean, with a warning (``fallback``, ``max_ill_posed``).

It costs T + 3 singular value decompositions, and memory for the whole matrix of every expert; for LoRA
experts it costs a QR of their factors and the last two.
"""

from collections.abc import Sequence

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.merge._group import Merged, TensorGroup
from trivet.merge._matrices import (
    OrthogonalizedConfig,
    added,
    is_ill_posed,
    is_matrix,
    leading,
    mean,
    split_alpha,
    task_matrices,
)
from trivet.merge._spectral import Svd, TaskMatrix, total
from trivet.merge.tsvm import concatenate


class Config(OrthogonalizedConfig):
    """Size of the common subspace, scale of the merged task vector, its rank, and what is left out."""

    common_space_fraction: float = Field(
        0.8, ge=0, le=1, description="share of the directions that is taken from the sum of the task vectors"
    )


def sizes(directions: int, count: int, fraction: float) -> tuple[int, int]:
    """(k common directions, s directions of each of ``count`` experts), k + count · s = ``directions``."""
    own = min(round((directions - int(directions * fraction)) / count), directions // count)
    return directions - own * count, own


def subspaces(tensor: TensorGroup, config: Config, matrices: Sequence[TaskMatrix]) -> list[Svd]:
    """The triplets of each expert outside the common subspace, then those of the common subspace."""
    common, own = sizes(min(tensor.rows, tensor.columns), tensor.count, config.common_space_fraction)
    shared = leading(tensor, config, total(matrices), common)
    parts = []
    for matrix in matrices:
        # What the projection leaves of a matrix inside the common subspace is rounding of that matrix.
        parts.append(leading(tensor, config, matrix.without(shared.U), own, scale=matrix.norm()))
    return [*parts, shared]


@method(paper=None, version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """W_0 + α σ̄ U_⊥ V_⊥ᵀ of the common and the experts' own directions.

    Raises:
        MergeError: the recipe has no base, or a task vector is not finite.
    """
    tensor.require_base()
    factors, alpha = split_alpha(config, tensor.count)
    if not is_matrix(config, tensor):
        return mean(factors, alpha)
    parts = subspaces(tensor, config, task_matrices(tensor, factors))
    tensor.notes["ranks"] = [len(part.S) for part in parts]
    if not sum(tensor.notes["ranks"]):
        return added(torch.zeros(tensor.rows, tensor.columns), alpha)  # no expert changed this weight
    found = concatenate(parts)
    flat = found.triplets.S.mean().expand(len(found.triplets.S))
    if is_ill_posed(tensor, config, (found.left, found.right), flat):
        return mean(factors, alpha)
    return added(found._replace(triplets=found.triplets._replace(S=flat)).orthogonalized(), alpha)
