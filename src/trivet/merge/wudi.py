"""WUDI: move the sum of the task vectors until it disturbs no expert on that expert's own inputs.

"Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors"
(arXiv 2503.08099). The task vector of a linear layer is nearly a combination of the inputs that the layer saw
in fine-tuning, so its rows stand in for that data: what the merged task vector M does differently from
expert t on those inputs is (M − D_t) D_tᵀ, and no data are needed to make it small:

    L(M) = Σ_t ‖(M − D_t) D_tᵀ‖² / ‖D_t‖²,   M = Σ_t D_t at first, then Adam
    W = W_0 + M

As in the official code: 300 steps at a learning rate of 1e-5 on each linear layer, and everything else
(vectors; here also embeddings and the output layer, ``exclude``) takes the mean of the task vectors. There is
no scale to tune. Steps of Adam have the size of the learning rate: it is meant for task vectors whose entries
are near 1e-3, and all entries move at most ``steps`` · ``learning_rate``. L before and after is noted.

Written with X = M − Σ_s D_s the gradient needs two matrices that are computed once, whatever T is,

    ∇L = 2 (C + X G),   G = Σ_t D_tᵀ D_t / ‖D_t‖²,   C = Σ_t (Σ_{s≠t} D_s) D_tᵀ D_t / ‖D_t‖²

and is exactly 0 where there is no interference, so that rounding is not blown up to steps of Adam.

A step costs one product of an m x n and an n x n matrix (for LoRA experts with the sum of the ranks R: of
m x n and n x R, twice). Memory: the whole matrix of every expert, six more, and G. No random numbers.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.errors import MergeError
from trivet.merge._group import Merged, TensorGroup
from trivet.merge._matrices import MatrixConfig, added, is_matrix, mean, task_matrices
from trivet.merge._spectral import TaskMatrix, total

_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8
"""Adam's usual constants. The class torch.optim.Adam takes seconds to load what it compiles with."""


class Config(MatrixConfig):
    """Steps of the optimiser, and what is left out."""

    steps: int = Field(300, ge=0, le=100_000, description="steps of Adam on each weight")
    learning_rate: float = Field(1e-5, gt=0, le=1, description="learning rate of Adam")


def input_root(matrix: TaskMatrix) -> torch.Tensor:
    """S [k, n] with SᵀS = DᵀD / ‖D‖², k = m or the rank of the product; 0 for a zero matrix."""
    norm = matrix.norm() or 1.0
    if matrix.right is None:
        return matrix.left / norm
    root: torch.Tensor = torch.linalg.qr(matrix.left.double(), mode="r").R @ matrix.right.double()
    return (root / norm).float()


def interference(
    merged: torch.Tensor, matrices: Sequence[TaskMatrix], roots: Sequence[torch.Tensor]
) -> float:
    """L(M) for M [m, n], with the ``input_root`` of each expert."""
    return sum(
        float(torch.linalg.vector_norm((merged - matrix.dense()) @ root.T, dtype=torch.float64)) ** 2
        for matrix, root in zip(matrices, roots, strict=True)
    )


def cross_term(matrices: Sequence[TaskMatrix], roots: Sequence[torch.Tensor]) -> torch.Tensor:
    """C [m, n]: half of the gradient of L at M = Σ_t D_t; exactly 0 for one expert."""
    C = torch.zeros(matrices[0].shape)
    for expert, root in enumerate(roots):
        others = [matrix for place, matrix in enumerate(matrices) if place != expert]
        if others:
            C.addmm_(total(others).dense() @ root.T, root)
    return C


def descend(
    matrices: Sequence[TaskMatrix], roots: Sequence[torch.Tensor], steps: int, learning_rate: float
) -> torch.Tensor:
    """M [m, n] after ``steps`` of Adam on L from M = Σ_t D_t."""
    C = cross_term(matrices, roots)
    X = torch.zeros_like(C)
    root = torch.cat(list(roots))  # [K, n]
    # X G = (X Sᵀ) S is cheaper in two products while 2 K < n.
    G = root.T @ root if 2 * root.shape[0] >= root.shape[1] else None
    first, second = torch.zeros_like(C), torch.zeros_like(C)  # moments of the gradient
    for step in range(1, steps + 1):
        gradient = torch.addmm(C, X, G) if G is not None else torch.addmm(C, X @ root.T, root)
        gradient.mul_(2)
        first.lerp_(gradient, 1 - _BETA_1)
        second.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        scale = second.sqrt().div_(math.sqrt(1 - _BETA_2**step)).add_(_EPS)
        X.addcdiv_(first, scale, value=-learning_rate / (1 - _BETA_1**step))
    return X.add_(total(matrices).dense())


@method(paper=None, version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """W_0 + M with M near the minimum of L.

    Raises:
        MergeError: the recipe has no base, or a task vector is not finite.
    """
    tensor.require_base()
    factors = [1.0] * tensor.count
    if not is_matrix(config, tensor):
        return mean(factors, 1.0)
    matrices = task_matrices(tensor, factors)
    roots = [input_root(matrix) for matrix in matrices]
    before = interference(total(matrices).dense(), matrices, roots)
    if not math.isfinite(before):
        raise MergeError(
            "a task vector holds an infinity or a NaN", where=tensor.name, hint="check the experts' weights"
        )
    if before == 0:  # no task vector, or none that another one meets: their sum is the minimum
        tensor.notes["interference"] = [0.0, 0.0]
        return added(total(matrices).dense(), 1.0)
    merged = descend(matrices, roots, config.steps, config.learning_rate)
    tensor.notes["interference"] = [before, interference(merged, matrices, roots)]
    return added(merged, 1.0)
