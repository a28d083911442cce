"""Model Stock: go from the base towards the experts' average as far as their agreement says.

"Model Stock: all we need is just a few fine-tuned models" (arXiv 2403.19522): with c the mean cosine between
the experts' task vectors of one tensor, the point nearest to the centre of all fine-tuned weights is

    W = τ · mean_t(W_t) + (1 − τ) · W_0,   τ = T c / (1 + (T − 1) c).

Equal experts (c = 1) give their average, orthogonal ones (c = 0) the base; there is nothing to set. At
c = −1/(T−1) the estimate has no finite value and the base is kept. With ``filter_wise`` each row has its own
c. It costs two looks at the weights.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

from itertools import combinations
from typing import ClassVar

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.errors import MergeError
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import MergeConfig
from trivet.merge._task_vectors import weighted_sum

_SINGULAR = 1e-6


class Config(MergeConfig):
    """Whether the agreement is measured for the whole tensor or for each row."""

    needs_base: ClassVar[bool] = True
    passes: ClassVar[int] = 2

    filter_wise: bool = Field(False, description="one ratio for each row instead of one for the tensor")

    def check(self, count: int, where: str) -> None:
        if count < 2:
            raise MergeError(f"model_stock needs at least two experts, not {count}", where=where)


@method(paper="2502.06876", version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """W_0 + τ · mean_t(D_t) for each block.

    Raises:
        MergeError: there is no base, or fewer than two experts.
    """
    tensor.require_base()
    config.check(tensor.count, tensor.name)
    ratio = None if config.filter_wise else _whole_ratio(tensor)
    if ratio is not None:
        tensor.notes["interpolation_ratio"] = float(ratio)

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        own = ratios(gram(rows.deltas, rowwise=True)) if ratio is None else ratio
        mean = weighted_sum(rows.deltas, [1 / tensor.count] * tensor.count)
        return mean.mul_(own.to(torch.float32).unsqueeze(-1) if own.dim() else float(own)).add_(rows.base)

    return block


def gram(deltas: tuple[torch.Tensor, ...], *, rowwise: bool) -> torch.Tensor:
    """⟨D_i, D_j⟩ in double precision: [T, T], or [T, T, rows] with ``rowwise``."""
    stacked = torch.stack([delta.double() for delta in deltas])
    return torch.einsum("irc,jrc->ijr" if rowwise else "irc,jrc->ij", stacked, stacked)


def ratios(products: torch.Tensor) -> torch.Tensor:
    """τ from the inner products [T, T, …] of the task vectors; 0 where it has no finite value."""
    count = products.shape[0]
    norms = products.diagonal(dim1=0, dim2=1).movedim(-1, 0).clamp(min=0).sqrt()
    cosines = [
        (products[i, j] / (norms[i] * norms[j]).clamp(min=_SINGULAR**2)).clamp(-1, 1)
        for i, j in combinations(range(count), 2)
    ]
    cosine = torch.stack(cosines).mean(0)
    denominator = 1 + (count - 1) * cosine
    singular = denominator.abs() < _SINGULAR
    return torch.where(singular, 0.0, count * cosine / torch.where(singular, 1.0, denominator))


def _whole_ratio(tensor: TensorGroup) -> torch.Tensor:
    total = torch.zeros(tensor.count, tensor.count, dtype=torch.float64)
    for rows in tensor.blocks():
        total += gram(rows.deltas, rowwise=False)
    return ratios(total)
