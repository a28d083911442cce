"""TSVM: keep each expert's leading singular vectors, make them orthonormal across experts, and sum.

"Task Singular Vectors: Reducing Task Interference in Model Merging" (arXiv 2412.00081). A task vector of a
linear layer is a matrix D_t = W_t − W_0 with a few strong singular directions. Experts interfere where their
directions overlap, so each of T experts gets an equal share of the q = min(m, n) directions, and the shares
are turned until none overlaps:

    D_t = U_t S_t V_tᵀ,   keep the first r = ⌊q / T⌋ triplets
    U = [U_1 … U_T],  S = (S_1, …, S_T),  V = [V_1 … V_T]
    U_⊥, V_⊥ = the nearest matrices with orthonormal columns (polar factors: U = P Σ Qᵀ gives U_⊥ = P Qᵀ)
    W = W_0 + α U_⊥ diag(S) V_⊥ᵀ

The merged task vector has exactly the kept singular values. With one expert it is that expert. Vectors,
embeddings and the output layer (``exclude``) take the mean of the task vectors, and so does a matrix with
fewer than T directions, where a share would be empty.

``rank: numerical`` keeps no triplet beyond the rank of D_t. The official code always keeps r (``official``):
with a LoRA expert of a lower rank those further vectors carry nothing, but the polar factor mixes them with
those that do. Where experts nearly coincide the polar factor is decided by rounding; such a tensor takes
the mean, with a warning (``fallback``, ``max_ill_posed``). The smallest singular value of U and V is noted.

It costs one singular value decomposition for each expert and two more (over a q x q Gram matrix where that is
faster), and memory for the whole matrix of every expert; for LoRA experts of rank r it costs a QR of an m x r
and an n x r matrix each.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

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
from trivet.merge._spectral import Overlap, Svd, overlap, polar_factor


class Config(OrthogonalizedConfig):
    """Scale of the merged task vector, its rank, and what is left out."""


class Concatenated(NamedTuple):
    """The kept singular triplets of all experts side by side, and how far they are from orthonormal."""

    triplets: Svd
    left: Overlap
    right: Overlap

    def orthogonalized(self) -> torch.Tensor:
        """U_⊥ diag(S) V_⊥ᵀ [m, n]."""
        U, S, V = self.triplets
        return Svd(polar_factor(U, self.left), S, polar_factor(V, self.right)).product()


def concatenate(parts: Sequence[Svd]) -> Concatenated:
    """Put the triplets of each expert (U_t [m, r_t], S_t [r_t], V_t [n, r_t]) side by side.

    At least one triplet, at most min(m, n) in all.
    """
    U, S, V = (torch.cat(list(columns), dim=-1) for columns in zip(*parts, strict=True))
    return Concatenated(Svd(U, S, V), overlap(U), overlap(V))


def merge_triplets(
    tensor: TensorGroup, config: OrthogonalizedConfig, parts: Sequence[Svd]
) -> torch.Tensor | None:
    """The merged task vector [m, n] of the experts' kept triplets, or ``None`` where it shall be the mean.

    The ranks and the condition go into the notes.
    """
    tensor.notes["ranks"] = [len(part.S) for part in parts]
    if not sum(tensor.notes["ranks"]):
        return torch.zeros(tensor.rows, tensor.columns)  # no expert changed this weight
    found = concatenate(parts)
    if is_ill_posed(tensor, config, (found.left, found.right), found.triplets.S):
        return None
    return found.orthogonalized()


@method(paper="2502.06876", version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """W_0 + α U_⊥ diag(S) V_⊥ᵀ.

    Raises:
        MergeError: the recipe has no base, or a task vector is not finite.
    """
    tensor.require_base()
    factors, alpha = split_alpha(config, tensor.count)
    share = min(tensor.rows, tensor.columns) // tensor.count
    if tensor.count == 1 or not share or not is_matrix(config, tensor):
        return mean(factors, alpha)
    parts = [leading(tensor, config, matrix, share) for matrix in task_matrices(tensor, factors)]
    merged = merge_triplets(tensor, config, parts)
    return mean(factors, alpha) if merged is None else added(merged, alpha)
