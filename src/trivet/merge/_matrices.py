"""Which tensors the methods on task matrices merge as matrices, and what happens to the others.

Those methods look at a weight as a linear map. Biases and norms are vectors, and embeddings and the output
layer are tables of tokens: they take the plain mean of the task vectors, as the official implementations do
for vectors. So do tensors whose merge the method finds ill-posed.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from trivet.errors import MergeError
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import MergeConfig, Weight, each
from trivet.merge._spectral import ILL_POSED, Overlap, Svd, TaskMatrix, complete_svd, thin_svd
from trivet.merge._task_vectors import weighted_sum


class MatrixConfig(MergeConfig):
    """What is merged as a matrix."""

    needs_base: ClassVar[bool] = True

    exclude: tuple[str, ...] = Field(
        ("embed_tokens", "lm_head", "wte", "wpe", "word_embeddings", "embed_in", "embed_out"),
        description="tensors whose name contains one of these take the plain mean of the task vectors",
    )


class SpectralConfig(MatrixConfig):
    """Settings of the methods that stand on singular vectors."""

    alpha: Weight = Field(
        1.0,
        description="a number: factor of the merged task vector; a list: factor of each expert's task vector",
    )
    rank: Literal["numerical", "official"] = Field(
        "numerical",
        description="numerical: no singular vector beyond a matrix's rank; official: the formula's number",
    )


class OrthogonalizedConfig(SpectralConfig):
    """Settings of the methods that make singular vectors of several experts orthonormal."""

    fallback: bool = Field(True, description="take the mean of the task vectors where the merge is ill-posed")
    max_ill_posed: float = Field(
        0.05,
        ge=0,
        le=1,
        description=f"largest share of the merged norm² on directions of singular values < {ILL_POSED:g}",
    )


def split_alpha(config: SpectralConfig, count: int) -> tuple[list[float], float]:
    """(factor of each task vector, factor of the merged one)."""
    if isinstance(config.alpha, float):
        return [1.0] * count, config.alpha
    return each(config.alpha, count, "alpha"), 1.0


def is_matrix(config: MatrixConfig, tensor: TensorGroup) -> bool:
    """Whether the tensor is merged as a matrix."""
    return (
        len(tensor.shape) == 2
        and tensor.elements > 0
        and not any(part in tensor.name for part in config.exclude)
    )


def mean(factors: Sequence[float], alpha: float) -> Merged:
    """W_0 + α · (1/T) Σ_t a_t D_t."""

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        return weighted_sum(rows.deltas, factors).mul_(alpha / len(factors)).add_(rows.base)

    return block


def added(matrix: torch.Tensor, alpha: float) -> Merged:
    """W_0 + α · ``matrix`` [m, n], of which each block takes its rows."""

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        return rows.base + matrix[rows.row : rows.row + rows.rows] * alpha

    return block


def task_matrices(tensor: TensorGroup, factors: Sequence[float]) -> list[TaskMatrix]:
    """a_t D_t of each expert; adapters stay products of low rank."""
    adapters = [tensor.factors(expert) for expert in range(tensor.count)]
    # Without a full expert nothing of the size of the weight is read.
    deltas = tensor.whole().deltas if None in adapters else ()
    matrices = []
    for expert, (adapter, factor) in enumerate(zip(adapters, factors, strict=True)):
        matrix = (
            TaskMatrix(deltas[expert]) if adapter is None else TaskMatrix(*(part.float() for part in adapter))
        )
        matrices.append(matrix if factor == 1 else matrix.scaled(factor))
    return matrices


def leading(
    tensor: TensorGroup, config: SpectralConfig, matrix: TaskMatrix, limit: int, *, scale: float | None = None
) -> Svd:
    """The ``limit`` largest singular triplets of a matrix of this tensor, fewer where ``rank`` says so.

    Raises:
        MergeError: the matrix is not finite; the tensor is named.
    """
    try:
        found = thin_svd(matrix, limit, scale=scale)
        if config.rank == "official" and len(found.S) < limit:
            return complete_svd(matrix).truncated(limit)
    except MergeError as error:
        raise MergeError(error.message, where=tensor.name, hint=error.hint) from None
    return found


def is_ill_posed(
    tensor: TensorGroup, config: OrthogonalizedConfig, overlaps: Sequence[Overlap], S: torch.Tensor
) -> bool:
    """Note the condition of the concatenated singular vectors, and warn where their merge is ill-posed.

    The polar factor turns a direction with singular value σ by (an error of the vectors) / σ. One small σ
    among many is common (a square matrix of k random directions has σ_min near 1 / k) and moves next to
    nothing; nearly identical experts have it in every direction that they share.

    Returns:
        Whether the tensor shall take the mean.
    """
    condition = min(found.condition for found in overlaps)
    share = max(found.ill_posed(S) for found in overlaps)
    tensor.notes["condition"] = condition
    tensor.notes["ill_posed"] = share
    if share <= config.max_ill_posed:
        return False
    then = "it takes the mean of the task vectors" if config.fallback else "the result depends on rounding"
    tensor.warn(
        f"the experts' singular vectors nearly coincide (smallest singular value {condition:.1e},"
        f" {share:.0%} of the norm² on such directions): {then}"
    )
    return config.fallback
