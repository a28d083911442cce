"""Singular values and vectors of task matrices, and the nearest matrix with orthonormal columns.

A task matrix D [m, n] is given as it is, or as a product B A of low rank r, as a LoRA adapter stores it:

- dense and far from a square: the smaller of the two Gram matrices D Dᵀ = U Σ² Uᵀ, and V = Dᵀ U Σ⁻¹. Squaring
  doubles the number of digits that are lost, so it is done in float64: a singular value σ has an error near
  1e-16 σ_max² / σ, which is that of float32 while σ > 1e-5 σ_max. Where one below that is wanted, and for
  matrices near a square, where it saves nothing, D itself is decomposed in float32;
- B A: B = Q_B R_B and Aᵀ = Q_A R_A by QR, then the singular vectors of the small R_B R_Aᵀ, turned by Q_B and
  Q_A. Exact, and nothing of the size of D is computed.

The polar factor of X [m, k] is X (XᵀX)^(−1/2), from the eigenvectors of XᵀX or the singular ones of X alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from trivet.errors import MergeError

_CHUNK = 2048
"""Columns converted to float64 at a time, so that no second copy of a whole matrix is made."""

_TRUSTED = 1e-5
"""Smallest ratio σ / σ_max that the route over the Gram matrix is trusted with."""

_SINGLE = 0.05
"""From this σ_min on float32 is enough to multiply by (XᵀX)^(−1/2), whose entries are up to 1 / σ_min."""

ILL_POSED = 1e-3
"""A direction with a singular value of the concatenated vectors below this one is decided by rounding."""


class Svd(NamedTuple):
    """Singular triplets, largest first: D ≈ U diag(S) Vᵀ. U [m, r], S [r], V [n, r], float32."""

    U: torch.Tensor
    S: torch.Tensor
    V: torch.Tensor

    def truncated(self, rank: int) -> "Svd":
        """The first ``rank`` triplets."""
        return Svd(self.U[:, :rank], self.S[:rank], self.V[:, :rank])

    def product(self) -> torch.Tensor:
        """U diag(S) Vᵀ [m, n]."""
        return (self.U * self.S) @ self.V.T


class Overlap(NamedTuple):
    """How far the columns of X [m, k] are from orthonormal: XᵀX = Q diag(σ²) Qᵀ.

    ``values``: σ [k], smallest first (all 1 for orthonormal columns); ``vectors``: Q [k, k]; ``left``: P
    [m, k] of X = P diag(σ) Qᵀ where it was computed too.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    left: torch.Tensor | None

    @property
    def condition(self) -> float:
        """σ_min: 1 for orthonormal columns, 0 for linearly dependent ones."""
        return float(self.values[0])

    def ill_posed(self, S: torch.Tensor) -> float:
        """Share of ‖S‖² that hangs on directions with σ < ``ILL_POSED``. S [k] belongs to the columns."""
        energy = S.double().square()
        lost = self.vectors[:, self.values < ILL_POSED].square().sum(dim=1)
        return float((energy * lost).sum() / energy.sum())


@dataclass(frozen=True)
class TaskMatrix:
    """A task matrix [m, n] in float32: ``left`` itself, or the product ``left`` [m, r] ``right`` [r, n]."""

    left: torch.Tensor
    right: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        columns = self.left if self.right is None else self.right
        return self.left.shape[0], columns.shape[1]

    def dense(self) -> torch.Tensor:
        """The matrix [m, n]."""
        return self.left if self.right is None else self.left @ self.right

    def scaled(self, factor: float | torch.Tensor) -> "TaskMatrix":
        """Multiplied by a number, or row by row by a tensor [m, 1]."""
        return TaskMatrix(self.left * factor, self.right)

    def without(self, U: torch.Tensor) -> "TaskMatrix":
        """(I − U Uᵀ) D: what is left outside the span of the orthonormal columns of U [m, k]."""
        return TaskMatrix(self.left - U @ (U.T @ self.left), self.right)

    def norm(self) -> float:
        """Frobenius norm."""
        if self.right is None:
            return float(torch.linalg.vector_norm(self.left, dtype=torch.float64))
        root = torch.linalg.qr(self.left.double(), mode="r").R @ self.right.double()
        return float(torch.linalg.vector_norm(root))


def total(matrices: Sequence[TaskMatrix]) -> TaskMatrix:
    """Σ_t D_t, as a product of low rank where each of them is one."""
    rights = [matrix.right for matrix in matrices if matrix.right is not None]
    if len(rights) == len(matrices):
        return TaskMatrix(torch.cat([matrix.left for matrix in matrices], dim=1), torch.cat(rights))
    dense = matrices[0].dense().clone()
    for matrix in matrices[1:]:
        dense.add_(matrix.dense())
    return TaskMatrix(dense)


def tolerance(shape: tuple[int, int]) -> float:
    """Ratio to the largest singular value up to which one is rounding in float32: max(m, n) · 2⁻²³."""
    return max(shape) * torch.finfo(torch.float32).eps


def thin_svd(matrix: TaskMatrix, limit: int | None = None, *, scale: float | None = None) -> Svd:
    """The largest singular triplets up to the numerical rank, at most ``limit``.

    Args:
        matrix: [m, n].
        limit: how many are wanted; all without it.
        scale: what a singular value is compared with to call it rounding; the largest one without it. A
            matrix from which most was subtracted is measured by what it was before.

    Raises:
        MergeError: the matrix holds an infinity or a NaN.
    """
    if matrix.right is None:
        return _dense_svd(matrix.left, limit, scale)
    _require_finite(matrix.left, matrix.right)
    left, left_root = torch.linalg.qr(matrix.left.double())
    right, right_root = torch.linalg.qr(matrix.right.T.double())
    U, S, Vh = torch.linalg.svd(left_root @ right_root.T, full_matrices=False)
    rank = _kept(S, matrix.shape, limit, scale)
    return Svd((left @ U[:, :rank]).float(), S[:rank].float(), (right @ Vh[:rank].T).float())


def complete_svd(matrix: TaskMatrix) -> Svd:
    """All min(m, n) triplets. Those beyond the numerical rank have arbitrary singular vectors."""
    _require_finite(matrix.left, *([] if matrix.right is None else [matrix.right]))
    U, S, Vh = torch.linalg.svd(matrix.dense(), full_matrices=False)
    return Svd(U, S, Vh.T)


def overlap(X: torch.Tensor) -> Overlap:
    """σ and Q of X [m, k] in float32, k ≤ m."""
    if not _near_square(X):
        eigenvalues, vectors = torch.linalg.eigh(_gram(X.T))
        values = eigenvalues.clamp_(min=0).sqrt_()
        if values[0] >= _TRUSTED * values[-1]:
            return Overlap(values, vectors, None)
    P, S, Qh = torch.linalg.svd(X, full_matrices=False)
    return Overlap(S.flip(0), Qh.T.flip(1), P.flip(1))


def polar_factor(X: torch.Tensor, found: Overlap) -> torch.Tensor:
    """The matrix with orthonormal columns that is nearest to X [m, k], k ≤ m: P Qᵀ of X = P diag(σ) Qᵀ.

    Args:
        X: [m, k], float32.
        found: ``overlap(X)``.
    """
    if found.left is not None:
        return found.left @ found.vectors.T
    root = (found.vectors / found.values) @ found.vectors.T
    if found.condition >= _SINGLE:
        return X @ root.float()
    return torch.cat([(part.double() @ root).float() for part in torch.split(X, _CHUNK)])


def _near_square(matrix: torch.Tensor) -> bool:
    return 4 * max(matrix.shape) < 5 * min(matrix.shape)


def _dense_svd(matrix: torch.Tensor, limit: int | None, scale: float | None) -> Svd:
    _require_finite(matrix)
    shape = (matrix.shape[0], matrix.shape[1])
    wide = matrix if shape[0] <= shape[1] else matrix.T  # [q, p]
    found = None if _near_square(wide) else _gram_svd(wide, shape, limit, scale)
    if found is None:
        long, S, short = torch.linalg.svd(wide.T, full_matrices=False)  # faster on the longer side
        found = Svd(short.T, S, long).truncated(_kept(S, shape, limit, scale))
    return found if wide is matrix else Svd(found.V, found.S, found.U)


def _gram_svd(
    wide: torch.Tensor, shape: tuple[int, int], limit: int | None, scale: float | None
) -> Svd | None:
    """Triplets of D [q, p] over D Dᵀ; ``None`` where one is too small for that."""
    eigenvalues, vectors = torch.linalg.eigh(_gram(wide))
    values = eigenvalues.clamp_(min=0).sqrt_().flip(0)
    rank = _kept(values, shape, limit, scale)
    if rank and values[rank - 1] < _TRUSTED * values[0]:
        return None
    values, short = values[:rank], vectors.flip(1)[:, :rank]
    long = [(part.double().T @ short / values).float() for part in torch.split(wide, _CHUNK, dim=1)]
    return Svd(short.float(), values.float(), torch.cat(long))


def _kept(values: torch.Tensor, shape: tuple[int, int], limit: int | None, scale: float | None) -> int:
    """How many of ``values``, largest first, are above rounding, at most ``limit``."""
    if not len(values) or not float(values[0]):
        return 0
    above = int((values > (scale or float(values[0])) * tolerance(shape)).sum())
    return above if limit is None else min(above, limit)


def _gram(matrix: torch.Tensor) -> torch.Tensor:
    """D Dᵀ [a, a] in float64 for D [a, b] in float32; only the lower triangle, which is what eigh reads."""
    rows = matrix.shape[0]
    step = max(64, -(-rows // 4))
    gram = torch.zeros(rows, rows, dtype=torch.float64)
    for part in torch.split(matrix, _CHUNK, dim=1):
        wide = part.double()
        for end in range(step, rows + step, step):
            gram[end - step : end, :end].addmm_(wide[end - step : end], wide[:end].T)
    return gram


def _require_finite(*tensors: torch.Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise MergeError("a task vector holds an infinity or a NaN", hint="check the experts' weights")
