"""Trimming by magnitude: which entries of a task vector stay."""

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from trivet.merge._group import Block, TensorGroup
from trivet.merge._rescale import l1_factors
from trivet.merge._select import Threshold, largest


class Band:
    """Keeps magnitudes from ``low`` up, and below or at ``high``; ties at either end by their index.

    ``kept`` of ``elements`` entries stay in all. Used over a tensor's blocks from first to last.
    """

    def __init__(
        self, elements: int, kept: int, low: Threshold | None, high: Threshold | None, dropped: int = 0
    ) -> None:
        self.density = kept / elements if elements else 1.0
        self._kept = kept
        self._lower = None if low is None else _Above(low, kept + dropped)
        self._upper = None if high is None else _Above(high, dropped)

    def trim(self, delta: torch.Tensor) -> torch.Tensor:
        """``delta`` with what does not stay set to 0; the given tensor is not changed."""
        if self._kept == 0:
            return torch.zeros_like(delta)
        result = delta if self._lower is None else self._lower.trim(delta)
        return result if self._upper is None else result - self._upper.trim(delta)


class _Above:
    """Keeps the ``count`` largest magnitudes of a tensor, given the smallest of them; ties by their index."""

    def __init__(self, threshold: Threshold, count: int) -> None:
        self._value = threshold.value
        self._places = count - threshold.larger  # for those that tie at the threshold
        self._bound = self._value
        if self._places >= threshold.equal:  # all of them, so none has to be looked for
            self._bound, self._places = _number_below(self._value), 0

    def trim(self, delta: torch.Tensor) -> torch.Tensor:
        """``delta`` where its magnitude is above the bound, and at the next ties that have a place."""
        kept = torch.nn.functional.hardshrink(delta, self._bound)
        if self._places > 0 and self._value > 0:
            ties = np.flatnonzero(delta.abs().numpy() == np.float32(self._value))[: self._places]
            self._places -= len(ties)
            places = torch.from_numpy(ties)
            kept.view(-1)[places] = delta.reshape(-1)[places]
        return kept


def _number_below(value: float) -> float:
    """The next smaller float32: hardshrink drops what equals its bound."""
    return float(np.nextafter(np.float32(value), np.float32(0))) if value > 0 else value


def band(group: TensorGroup, counts: Sequence[tuple[int, int]]) -> list[Band]:
    """For each expert, a band that leaves out the ``dropped`` largest and keeps the next ``kept`` entries.

    Args:
        counts: (dropped, kept) for each expert; their sum is at most the number of elements.
    """
    elements = group.elements
    ranks: list[list[int]] = []
    for dropped, kept in counts:
        whole = dropped + kept
        ranks.append([rank for rank in (dropped, whole) if 0 < rank < elements])
    needed = any(ranks)
    found = largest(lambda: iter([group]), ranks) if needed else [[] for _ in counts]
    bands = []
    for (dropped, kept), chosen, thresholds in zip(counts, ranks, found, strict=True):
        known = dict(zip(chosen, thresholds, strict=True))
        bands.append(Band(elements, kept, known.get(dropped + kept), known.get(dropped), dropped))
    return bands


class AtLeast:
    """Keeps every magnitude that is at least the threshold, all ties included (as the code of TIES does)."""

    def __init__(self, threshold: Threshold | None) -> None:
        self._threshold = threshold

    def trim(self, delta: torch.Tensor) -> torch.Tensor:
        """``delta`` with what does not stay set to 0."""
        if self._threshold is None:
            return delta
        return torch.nn.functional.hardshrink(delta, _number_below(self._threshold.value))


class Trimmer(Protocol):
    """Says what of a task vector stays, block by block from first to last."""

    def trim(self, delta: torch.Tensor) -> torch.Tensor:
        """``delta`` with what does not stay set to 0; the given tensor is not changed."""
        ...


def tensor_trimmers(group: TensorGroup, densities: Sequence[float]) -> list[Band]:
    """Keep exactly max(1, ⌊density · n⌋) entries of each expert's task vector; none at density 0."""
    elements = group.elements
    counts = [(0, kept_count(density, elements)) for density in densities]
    return band(group, counts)


def kept_count(density: float, elements: int) -> int:
    """How many entries a density keeps."""
    if density >= 1:
        return elements
    return 0 if density <= 0 else min(elements, max(1, int(density * elements)))


def model_trimmers(group: TensorGroup, densities: Sequence[float]) -> list[AtLeast]:
    """Keep the share of the whole model's entries that is largest; all ties at the threshold stay."""

    def compute() -> list[AtLeast]:
        scope = group.model()
        elements = sum(tensor.elements for tensor in scope.groups())
        ranks = [[kept_count(density, elements)] if 0 < density < 1 else [] for density in densities]
        found = largest(scope.groups, ranks)
        nothing = Threshold(float("inf"), 0, 0)
        return [
            AtLeast(thresholds[0] if thresholds else nothing if density <= 0 else None)
            for thresholds, density in zip(found, densities, strict=True)
        ]

    trimmers: list[AtLeast] = group.model().once(f"ties {list(densities)}", compute)
    return trimmers


class Kept:
    """The task vectors of a tensor after trimming, rescaled where that is asked for."""

    def __init__(self, group: TensorGroup, trimmers: Sequence[Trimmer], rescale: str) -> None:
        self._trimmers = trimmers
        self._factors = [1.0] * group.count
        if rescale == "l1":
            fresh = copy.deepcopy(
                list(trimmers)
            )  # ties are given out once, and the merge comes after this look
            self._factors = l1_factors(group, lambda expert, block: fresh[expert].trim(block.deltas[expert]))

    def deltas(self, block: Block) -> list[torch.Tensor]:
        """What is left of each expert's task vector."""
        return [
            self._trimmers[expert].trim(delta) * factor if factor != 1 else self._trimmers[expert].trim(delta)
            for expert, (delta, factor) in enumerate(zip(block.deltas, self._factors, strict=True))
        ]
