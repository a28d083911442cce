"""Exact order statistics of magnitudes, without sorting and without holding the tensor.

The bits of a non-negative float32, read as an integer, are in the order of the numbers. Two counts over 2¹⁵ and
2¹⁶ bins (the upper, then the lower half of the bits) therefore find any order statistic exactly, in two looks
at the data and half a megabyte. Ties, which the deltas of 16-bit weights are full of, cost nothing; a selection
by partition slows down tenfold on them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from trivet.merge._group import TensorGroup

_UPPER, _LOWER = 2**15, 2**16


@dataclass(frozen=True)
class Threshold:
    """The ``rank``-th largest magnitude of a tensor (from 1), and how many are larger, as large and in all."""

    value: float
    larger: int
    equal: int


def largest(
    groups: Callable[[], Iterator[TensorGroup]], ranks: Sequence[Sequence[int]]
) -> list[list[Threshold]]:
    """For each expert, the ``ranks[expert]``-th largest magnitudes of its task vector over some tensors.

    A rank is 1 … number of elements in all. Two looks at the tensors.
    """
    counts = torch.zeros(len(ranks), _UPPER, dtype=torch.int64)
    for expert, delta in _deltas(groups):
        counts[expert] += torch.bincount(magnitude_bits(delta) >> 16, minlength=_UPPER)
    bins = [[_bin_of(counts[expert], rank) for rank in chosen] for expert, chosen in enumerate(ranks)]
    wanted = [sorted({upper for upper, _ in chosen}) for chosen in bins]
    fine = {
        (expert, upper): torch.zeros(_LOWER, dtype=torch.int64)
        for expert, uppers in enumerate(wanted)
        for upper in uppers
    }
    for expert, delta in _deltas(groups):
        bits = magnitude_bits(delta)
        for upper in wanted[expert]:
            # Bins 0 and 2¹⁶ + 1 take what lies below and above this upper half.
            low = (bits - ((upper << 16) - 1)).clamp_(0, _LOWER + 1)
            fine[expert, upper] += torch.bincount(low, minlength=_LOWER + 2)[1:-1]
    found: list[list[Threshold]] = []
    for expert, chosen in enumerate(ranks):
        found.append([])
        for rank, (upper, above) in zip(chosen, bins[expert], strict=True):
            lower, within = _bin_of(fine[expert, upper], rank - above)
            bits = torch.tensor((upper << 16) + lower, dtype=torch.int32)
            value = float(bits.view(torch.float32))
            found[-1].append(Threshold(value, above + within, int(fine[expert, upper][lower])))
    return found


def _deltas(groups: Callable[[], Iterator[TensorGroup]]) -> Iterator[tuple[int, torch.Tensor]]:
    for group in groups():
        for block in group.blocks():
            yield from enumerate(block.deltas)


def magnitude_bits(values: torch.Tensor) -> torch.Tensor:
    """The bits of |values| as integers, flat int32."""
    return values.reshape(-1).view(torch.int32) & 0x7FFFFFFF


def _bin_of(counts: torch.Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the ``rank``-th largest, and how many lie in the bins above it."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    chosen = len(counts) - 1 - place
    return chosen, int(above[place] - counts[chosen])


class TieBreaker:
    """Hands out places to elements that tie at a threshold, in the order of their index.

    Used over a tensor's blocks from first to last.
    """

    def __init__(self, places: int) -> None:
        self._left = max(0, places)

    @property
    def empty(self) -> bool:
        """Whether all places are taken."""
        return self._left == 0

    def take(self, wanted: int) -> int:
        """How many of the next ``wanted`` ties get a place."""
        given = min(wanted, self._left)
        self._left -= given
        return given
