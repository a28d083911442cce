"""Rewarded soup: average the weights of models tuned for different rewards, by a user's preference.

"Rewarded soups: towards Pareto-optimal alignment by interpolating weights fine-tuned on diverse rewards"
(arXiv 2306.04488): one model is tuned for each reward, and for a preference a on the simplex

    W(a) = Σ_t a_t W_t,   a_t ≥ 0,  Σ_t a_t = 1.

Sweeping a traces a front between the rewards without any training (``trivet merge search``); equal
preferences are the plain average. A preference off the simplex is refused, not rescaled: it would be a
different point than the one that was asked for. It costs one pass over the weights.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

import math
from typing import ClassVar

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.errors import MergeError
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import Fraction, MergeConfig, each
from trivet.merge._task_vectors import weighted_sum

_TOLERANCE = 1e-6


class Config(MergeConfig):
    """The preference."""

    base_is_input: ClassVar[bool] = True
    base_joins: ClassVar[bool] = True

    weight: Fraction | None = Field(None, description="preference for each model; by default all equal")

    def preferences(self, count: int) -> list[float]:
        """One for each model."""
        return each(1 / count if self.weight is None else self.weight, count, "weight")

    def check(self, count: int, where: str) -> None:
        total = sum(self.preferences(count))
        if not math.isclose(total, 1, abs_tol=_TOLERANCE):
            raise MergeError(
                f"the preferences sum to {total:g}, not to 1",
                where=where,
                hint="give weights on the simplex, or use merge_method: linear",
            )


@method(paper="2502.06876", version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """Σ_t a_t W_t for each block.

    Raises:
        MergeError: the preferences do not sum to 1.
    """
    config.check(tensor.count, tensor.name)
    weights = config.preferences(tensor.count)

    def block(rows: Block) -> torch.Tensor:
        chosen = [place for place, weight in enumerate(weights) if weight != 0]
        return weighted_sum([rows.experts[place] for place in chosen], [weights[place] for place in chosen])

    return block
