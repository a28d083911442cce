"""Dropping entries of task vectors at random, and rescaling what is left.

Two ways to rescale are in use under one name, and differ: the papers divide each kept entry by its own keep
probability, which keeps the expectation (``inverse_keep_prob``); mergekit multiplies what is left so that the
sum of magnitudes of the tensor is what it was (``l1``).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator

from trivet.merge._group import Block, TensorGroup
from trivet.merge._random import Array, bounds
from trivet.merge._rescale import l1_factors

Rescale = Literal["l1", "inverse_keep_prob", "none"]
_KEPT_MASKS = 2**23  # elements of all experts up to which masks are kept between two looks

Mask = Callable[[int, Block], Array]
"""(expert, block) → what each entry is multiplied with, bool or float32 [rows, columns]; 0 drops it."""


def _as_name(value: Any) -> Any:
    return {1.0: "l1", 0.0: "none"}.get(value, value) if isinstance(value, (int, float)) else value


TrimRescaleSetting = Annotated[Literal["l1", "none"], BeforeValidator(_as_name)]
"""For methods that trim by magnitude: there is no probability to divide by."""

RescaleSetting = Annotated[Rescale, BeforeValidator(_as_name)]
"""``true`` and ``false`` (also 1 and 0) are mergekit's names for ``l1`` and ``none``."""


class Dropped:
    """The task vectors of a tensor after dropping. ``l1`` looks at the tensor once more, for its sums."""

    def __init__(self, group: TensorGroup, mask: Mask, rescale: Rescale) -> None:
        self._mask = mask
        self._masks: dict[tuple[int, int], Array] | None = None
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
        # numpy multiplies with truth values as they are; torch would make numbers of them first.
        return torch.from_numpy(np.multiply(block.deltas[expert].numpy(), self._masked(expert, block)))

    def _masked(self, expert: int, block: Block) -> Array:
        if self._masks is None:
            return self._mask(expert, block)
        key = (expert, block.row)
        if key not in self._masks:
            self._masks[key] = self._mask(expert, block)
        return self._masks[key]


def bernoulli(group: TensorGroup, densities: Sequence[float], rescale: Rescale) -> Mask:
    """Keeps each entry with probability ``densities[expert]`` (DARE, arXiv 2311.03099, section 3)."""

    def mask(expert: int, block: Block) -> Array:
        density = densities[expert]
        if density >= 1:
            return np.ones((block.rows, group.columns), dtype=np.bool_)
        kept = group.draws(expert, block) < bounds(density)
        inverse = rescale == "inverse_keep_prob" and density > 0
        return np.multiply(kept, np.float32(1 / density)) if inverse else kept

    return mask


def magnitude_pruned(
    group: TensorGroup, densities: Sequence[float], epsilons: Sequence[float], rescale: Rescale
) -> Mask:
    """Keeps larger entries of a row with larger probability (MagPrune of DELLA, arXiv 2406.11617, section 3).

    With r = 0 … n−1 the rank of an entry's magnitude in its row (ties by column), the keep probability is
    density − ε + 2 ε r / (n − 1); in a row of one entry it is the density.
    """
    ranks = np.arange(group.columns)
    share = ranks / (group.columns - 1) if group.columns > 1 else np.full(1, 0.5)

    def mask(expert: int, block: Block) -> Array:
        density, epsilon = densities[expert], epsilons[expert]
        if density >= 1 or density <= 0:
            return np.full((block.rows, group.columns), density >= 1)
        probabilities = density - epsilon + share * (2 * epsilon)
        # A draw for each rank is as good as one for each place, and saves inverting the order.
        kept: Array = group.draws(expert, block) < bounds(probabilities)
        if rescale == "inverse_keep_prob":
            kept = np.divide(kept, probabilities, dtype=np.float32)
        placed = np.empty_like(kept)
        placed.reshape(-1)[places_by_magnitude(block.deltas[expert])] = kept.reshape(-1)
        return placed

    return mask


def places_by_magnitude(values: torch.Tensor) -> Array:
    """The places of each row's elements in ascending order of magnitude, ties by column; row after row.

    Places count from the first element of the matrix; int64 [rows · columns]. Magnitude and place are packed
    into one integer, since sorting integers is several times faster than finding the order of floats.
    """
    rows, columns = values.shape
    keys = np.empty((rows, columns, 2), dtype="<u4")
    keys[:, :, 0] = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns)
    keys[:, :, 1] = values.contiguous().numpy().view(np.uint32) & 0x7FFFFFFF
    packed = keys.view("<u8").reshape(rows, columns)
    packed.sort(axis=1)
    return (packed & 0xFFFFFFFF).astype(np.int64, copy=False).reshape(-1)
