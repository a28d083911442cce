"""Exact order statistics of magnitudes, without sorting and without holding the tensor.

Some rows of a tensor say between which two magnitudes a rank almost surely lies. One look at all of it then
counts what is above them and gathers what is between, a few percent, which is partitioned. Where the rows
misled, or most of the tensor lies between (the deltas of 16-bit weights are full of ties), counting takes its
place: the bits of a non-negative float32, read as an integer, are in the order of the numbers, so two counts
over 2¹⁵ and 2¹⁶ bins (the upper, then the lower half of the bits) find any order statistic in two looks.
Both are exact and give the same.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from trivet.merge._group import TensorGroup
from trivet.merge._random import Array

_UPPER, _LOWER, _MAGNITUDE = 2**15, 2**16, 0x7FFFFFFF
_SAMPLED = 2**15, 2**18  # magnitudes of each expert that are sampled, at least and at most
_SMALL = 2**17  # below this many elements a sample saves nothing
_STRETCHES = 64  # of rows, where a tensor is too large to be kept
_WIDTH = 6.0  # standard deviations of a sampled rank on either side
_GATHERED = 1 / 3  # share of a tensor that may lie between the two magnitudes
GATHERED_BYTES = 32 * 2**20
"""What may be gathered of all experts together; a tensor of which more would be is counted instead."""


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

    A rank is 1 … number of elements in all. One look at the tensors and at some of their rows, or three.
    """
    found = _between(groups, ranks)
    return _counted(groups, ranks) if found is None else found


@dataclass
class _Bracket:
    """Bits of two magnitudes with a rank between them, how many lie above, and those that lie between.

    ``expected`` is how many bytes those will take, about.
    """

    rank: int
    low: int
    high: int
    expected: float
    above: int = 0
    between: list[Array] = field(default_factory=list)

    def add(self, bits: Array) -> None:
        """Count a block: ``bits`` of its magnitudes, int32."""
        over = bits >= self.high
        self.above += int(np.count_nonzero(over))
        np.logical_xor(over, bits >= self.low, out=over)
        self.between.append(np.compress(over, bits))

    def threshold(self) -> Threshold | None:
        """The magnitude of the rank; ``None`` where it is not between the two."""
        values = np.concatenate(self.between)
        self.between.clear()
        place = self.rank - self.above  # from 1, from the largest
        if not 1 <= place <= len(values):
            return None
        values.partition(len(values) - place)
        value = values[len(values) - place]
        larger = self.above + int(np.count_nonzero(values > value))
        return Threshold(float(value.view(np.float32)), larger, int(np.count_nonzero(values == value)))


def _between(
    groups: Callable[[], Iterator[TensorGroup]], ranks: Sequence[Sequence[int]]
) -> list[list[Threshold]] | None:
    """As ``largest``; ``None`` where a sample of rows does not help."""
    tensors = list(islice(groups(), 2))
    if len(tensors) != 1 or tensors[0].elements < _SMALL:
        return None
    elements = tensors[0].elements
    sampled = _sample(tensors[0])
    brackets = []
    for bits, chosen in zip(sampled, ranks, strict=True):
        found = [_bracket(bits, rank, elements) for rank in chosen]
        if any(bracket is None for bracket in found):
            return None
        brackets.append([bracket for bracket in found if bracket is not None])
    if sum(bracket.expected for of_expert in brackets for bracket in of_expert) > GATHERED_BYTES:
        return None
    gathered = 0
    for expert, delta in _deltas(groups):
        if brackets[expert]:
            bits = (delta.reshape(-1).view(torch.int32) & _MAGNITUDE).numpy()
            for bracket in brackets[expert]:
                bracket.add(bits)
                gathered += bracket.between[-1].nbytes
        if gathered > GATHERED_BYTES:
            return None
    thresholds = [[bracket.threshold() for bracket in of_expert] for of_expert in brackets]
    if any(threshold is None for of_expert in thresholds for threshold in of_expert):
        return None
    return [[one for one in of_expert if one is not None] for of_expert in thresholds]


def _sample(group: TensorGroup) -> list[Array]:
    """For each expert the bits of evenly spaced magnitudes, ascending, int32."""
    sampled: list[list[torch.Tensor]] = [[] for _ in range(group.count)]
    looked_at = list(group.some_blocks(_STRETCHES))
    least, most = _SAMPLED
    wanted = min(max(group.elements // 512, least), most)
    step = max(1, sum(block.rows for block in looked_at) * group.columns // wanted)
    for block in looked_at:
        for parts, delta in zip(sampled, block.deltas, strict=True):
            parts.append(delta.reshape(-1)[::step])
    return [np.sort((torch.cat(parts).view(torch.int32) & _MAGNITUDE).numpy()) for parts in sampled]


def _bracket(sample: Array, rank: int, elements: int) -> _Bracket | None:
    """Two magnitudes with the rank almost surely between them; ``None`` where too many would be."""
    size = len(sample)
    share = 1 - rank / elements  # of the magnitudes below
    slack = _WIDTH * (share * (1 - share) / size) ** 0.5 + _WIDTH / size
    first, last = int((share - slack) * size), int((share + slack) * size) + 1
    low = 0 if first < 0 else int(sample[first])
    high = _MAGNITUDE if last >= size else int(sample[last]) + 1
    between = np.searchsorted(sample, high) - np.searchsorted(sample, low)
    share_between = float(between) / size
    return _Bracket(rank, low, high, 4 * elements * share_between) if share_between <= _GATHERED else None


def _counted(
    groups: Callable[[], Iterator[TensorGroup]], ranks: Sequence[Sequence[int]]
) -> list[list[Threshold]]:
    """As ``largest``, by two counts of bits."""
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


def _lower_halves(delta: torch.Tensor, upper: int) -> Array:
    """Counts of the lower halves of the bits, [2¹⁶], among the magnitudes whose upper half is ``upper``."""
    halves = delta.reshape(-1).numpy().view(np.uint16)
    lower, higher = (
        (halves[0::2], halves[1::2]) if sys.byteorder == "little" else (halves[1::2], halves[0::2])
    )
    places = np.flatnonzero((higher & 0x7FFF) == upper)
    return np.bincount(lower[places], minlength=_LOWER)


def _threshold(counts: Array, upper: int, rank: int, above: int) -> Threshold:
    """The ``rank``-th largest, which is among those of one upper half; ``above`` have a larger one."""
    lower, within = _bin_of(counts, rank - above)
    value = float(np.uint32((upper << 16) + lower).view(np.float32))
    return Threshold(value, above + within, int(counts[lower]))


def _bin_of(counts: Array, rank: int) -> tuple[int, int]:
    """The bin that holds the ``rank``-th largest, and how many lie in the bins above it."""
    above = counts[::-1].cumsum()
    place = int(np.searchsorted(above, rank))
    chosen = len(counts) - 1 - place
    return chosen, int(above[place] - counts[chosen])
