"""Iso-C: add the task vectors and make all singular values of the sum equal.

"No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces" (arXiv 2502.04959).
Where experts agree the sum of their task matrices has a few dominant singular directions, and what only one
of them learnt drowns in the rest. Iso-C keeps the directions and gives each the same strength:

    D = Σ_t (W_t − W_0) = U diag(σ) Vᵀ,   σ̄ = (1/r) Σ_i σ_i
    W = W_0 + α σ̄ U Vᵀ

The paper picks α on held-out data, from 0.1 to 3. Vectors, embeddings and the output layer (``exclude``)
take the mean of the task vectors. r is the numerical rank of D. With ``rank: official`` it is min(m, n), as
in the official code: where D has a lower rank (LoRA experts) that adds singular vectors without meaning,
as strong as the true ones.

Small singular values are raised to the mean, and their directions with them: where they are noise, so is
what is raised. The ratio of the smallest kept value to the largest is noted as the condition.

It costs one singular value decomposition, and memory for the whole matrix of every expert; for LoRA experts
it costs a QR of their factors.
"""

import torch

from trivet.catalogue import method
from trivet.merge._group import Merged, TensorGroup
from trivet.merge._matrices import SpectralConfig, added, is_matrix, leading, mean, split_alpha, task_matrices
from trivet.merge._spectral import Svd, total


class Config(SpectralConfig):
    """Scale of the merged task vector, its rank, and what is left out."""


def flattened(svd: Svd) -> torch.Tensor:
    """σ̄ U Vᵀ [m, n], with the mean σ̄ of the singular values; at least one."""
    return svd._replace(S=svd.S.mean().expand(len(svd.S))).product()


@method(paper=None, version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """W_0 + α σ̄ U Vᵀ of the summed task vectors.

    Raises:
        MergeError: the recipe has no base, or a task vector is not finite.
    """
    tensor.require_base()
    factors, alpha = split_alpha(config, tensor.count)
    if not is_matrix(config, tensor):
        return mean(factors, alpha)
    found = leading(tensor, config, total(task_matrices(tensor, factors)), min(tensor.rows, tensor.columns))
    tensor.notes["ranks"] = [len(found.S)]
    if not len(found.S):
        return added(torch.zeros(tensor.rows, tensor.columns), alpha)  # the task vectors sum to nothing
    tensor.notes["condition"] = float(found.S[-1] / found.S[0])
    return added(flattened(found), alpha)
