"""Exact order statistics of magnitudes, without sorting and without holding the tensor.

The bits of a non-negative float32, read as an integer, are in the order of the numbers. Two counts over 2¹⁵
and 2¹⁶ bins (the upper, then the lower half of the bits) therefore find any order statistic exactly, in two
looks at the data and half a megabyte. Ties, which the deltas of 16-bit weights are full of, cost nothing; a
selection by partition slows down tenfold on them.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trivet.merge._group import TensorGroup

_UPPER, _LOWER, _MAGNITUDE = 2**15, 2**16, 0x7FFFFFFF


@dataclass(frozen=True)
class Threshold:
    """The ``rank``-th largest magnitude of a tensor (from 1), and how many are larger and as large."""

    value: float
    larger: int
    equal: int


def largest(
    groups: Callable[[], Iterator[TensorGroup]], ranks: Sequence[Sequence[int]]
) -> list[list[Threshold]]:
    """For each expert, the ``ranks[expert]``-th largest magnitudes of its task vector over some tensors.

    A rank is 1 … number of elements in all. Two looks at the tensors.
    """
    counts = np.zeros((len(ranks), _UPPER), dtype=np.int64)
    for expert, delta in _deltas(groups):
        if ranks[expert]:
            bits = (delta.reshape(-1).view(torch.int32) & _MAGNITUDE).bitwise_right_shift_(16)
            counts[expert] += torch.bincount(bits, minlength=_UPPER).numpy()
    bins = [[_bin_of(counts[expert], rank) for rank in chosen] for expert, chosen in enumerate(ranks)]
    fine = {
        (expert, upper): np.zeros(_LOWER, dtype=np.int64)
        for expert, chosen in enumerate(bins)
        for upper, _ in chosen
    }
    for expert, delta in _deltas(groups):
        for upper in {upper for upper, _ in bins[expert]}:
            fine[expert, upper] += _lower_halves(delta, upper)
    return [
        [
            _threshold(fine[expert, upper], upper, rank, above)
            for rank, (upper, above) in zip(chosen, bins[expert], strict=True)
        ]
        for expert, chosen in enumerate(ranks)
    ]


def _deltas(groups: Callable[[], Iterator[TensorGroup]]) -> Iterator[tuple[int, torch.Tensor]]:
    for group in groups():
        for block in group.blocks():
            yield from enumerate(block.deltas)


def _lower_halves(delta: torch.Tensor, upper: int) -> np.ndarray[Any, Any]:
    """Counts of the lower halves of the bits, [2¹⁶], among the magnitudes whose upper half is ``upper``."""
    halves = delta.reshape(-1).numpy().view(np.uint16)
    lower, higher = (
        (halves[0::2], halves[1::2]) if sys.byteorder == "little" else (halves[1::2], halves[0::2])
    )
    places = np.flatnonzero((higher & 0x7FFF) == upper)
    return np.bincount(lower[places], minlength=_LOWER)


def _threshold(counts: np.ndarray[Any, Any], upper: int, rank: int, above: int) -> Threshold:
    """The ``rank``-th largest, which is among those of one upper half; ``above`` have a larger one."""
    lower, within = _bin_of(counts, rank - above)
    value = float(np.uint32((upper << 16) + lower).view(np.float32))
    return Threshold(value, above + within, int(counts[lower]))


def _bin_of(counts: np.ndarray[Any, Any], rank: int) -> tuple[int, int]:
    """The bin that holds the ``rank``-th largest, and how many lie in the bins above it."""
    above = counts[::-1].cumsum()
    place = int(np.searchsorted(above, rank))
    chosen = len(counts) - 1 - place
    return chosen, int(above[place] - counts[chosen])
