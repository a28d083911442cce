"""Dropping entries of task vectors at random, and rescaling what is left.

Two ways to rescale are in use under one name, and differ: the papers divide each kept entry by its own keep
probability, which keeps the expectation (``inverse_keep_prob``); mergekit multiplies what is left so that the
sum of magnitudes of the tensor is what it was (``l1``).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator

from trivet.merge._group import Block, TensorGroup
from trivet.merge._rescale import l1_factors

Rescale = Literal["l1", "inverse_keep_prob", "none"]
_KEPT_MASKS = 2**22  # elements of all experts up to which masks are kept between two looks

Mask = Callable[[int, Block], torch.Tensor]
"""(expert, block) → what each entry is multiplied with, float32 [rows, columns]; 0 drops it."""


def _as_name(value: Any) -> Any:
    return {True: "l1", False: "none"}.get(value, value) if isinstance(value, bool) else value


TrimRescaleSetting = Annotated[Literal["l1", "none"], BeforeValidator(_as_name)]
"""For methods that trim by magnitude: there is no probability to divide by."""

RescaleSetting = Annotated[Rescale, BeforeValidator(_as_name)]
"""``true`` and ``false`` are mergekit's names for ``l1`` and ``none``."""


class Dropped:
    """The task vectors of a tensor after dropping. ``l1`` looks at the tensor once more, for its sums."""

    def __init__(self, group: TensorGroup, mask: Mask, rescale: Rescale) -> None:
        self._mask = mask
        self._masks: dict[tuple[int, int], torch.Tensor] | None = None
        self._factors = [1.0] * group.count
        if rescale == "l1":
            if group.elements * group.count <= _KEPT_MASKS:
                self._masks = {}
            self._factors = l1_factors(group, self._kept)

    def deltas(self, block: Block) -> list[torch.Tensor]:
        """What is left of each expert's task vector, rescaled."""
        left = []
        for expert in range(len(block.deltas)):
            kept = self._kept(expert, block)
            left.append(kept.mul_(self._factors[expert]) if self._factors[expert] != 1 else kept)
        return left

    def _kept(self, expert: int, block: Block) -> torch.Tensor:
        return block.deltas[expert] * self._masked(expert, block)

    def _masked(self, expert: int, block: Block) -> torch.Tensor:
        if self._masks is None:
            return self._mask(expert, block)
        key = (expert, block.row)
        if key not in self._masks:
            self._masks[key] = self._mask(expert, block)
        return self._masks[key]


def bernoulli(group: TensorGroup, densities: Sequence[float], rescale: Rescale) -> Mask:
    """Keeps each entry with probability ``densities[expert]`` (DARE, arXiv 2311.03099, section 3)."""

    def mask(expert: int, block: Block) -> torch.Tensor:
        density = densities[expert]
        if density >= 1:
            return torch.ones(block.rows, group.columns)
        kept = (group.uniform(expert, block) < density).to(torch.float32)
        return kept.div_(density) if rescale == "inverse_keep_prob" and density > 0 else kept

    return mask


def magnitude_pruned(
    group: TensorGroup, densities: Sequence[float], epsilons: Sequence[float], rescale: Rescale
) -> Mask:
    """Keeps larger entries of a row with larger probability (MagPrune of DELLA, arXiv 2406.11617, section 3).

    With r = 0 … n−1 the rank of an entry's magnitude in its row (ties by column), the keep probability is
    density − ε + 2 ε r / (n − 1); in a row of one entry it is the density.
    """
    ranks = torch.arange(group.columns, dtype=torch.float32)
    share = ranks / (group.columns - 1) if group.columns > 1 else torch.full((1,), 0.5)

    def mask(expert: int, block: Block) -> torch.Tensor:
        density, epsilon = densities[expert], epsilons[expert]
        if density >= 1:
            return torch.ones(block.rows, group.columns)
        if density <= 0:
            return torch.zeros(block.rows, group.columns)
        probabilities = density - epsilon + share * (2 * epsilon)
        # A draw for each rank is as good as one for each place, and saves inverting the order.
        kept = (group.uniform(expert, block) < probabilities).to(torch.float32)
        if rescale == "inverse_keep_prob":
            kept.div_(probabilities)
        places = columns_by_magnitude(block.deltas[expert])
        return torch.empty_like(kept).scatter_(1, places, kept)

    return mask


def columns_by_magnitude(values: torch.Tensor) -> torch.Tensor:
    """The columns of each row in ascending order of magnitude, ties by column; int64 [rows, columns].

    Magnitude and column are packed into one integer, since sorting integers is several times faster than
    finding the order of floats.
    """
    bits = values.contiguous().view(torch.int32) & 0x7FFFFFFF
    keys = (bits.to(torch.int64) << 32) | torch.arange(values.shape[1], dtype=torch.int64)
    packed = keys.numpy()
    packed.sort(axis=1)
    return keys.bitwise_and_(0xFFFFFFFF)
