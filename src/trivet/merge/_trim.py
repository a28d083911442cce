"""Trimming by magnitude: which entries of a task vector stay."""

from collections.abc import Sequence

import torch

from trivet.merge._group import TensorGroup
from trivet.merge._select import Threshold, TieBreaker, largest, magnitude_bits


class Band:
    """Keeps magnitudes from ``low`` up, and below or at ``high``; ties at either end by their index.

    ``kept`` of ``elements`` entries stay in all. Used over a tensor's blocks from first to last.
    """

    def __init__(
        self, elements: int, kept: int, low: Threshold | None, high: Threshold | None, dropped: int = 0
    ) -> None:
        self.density = kept / elements if elements else 1.0
        self._kept, self._elements = kept, elements
        self._low, self._high = low, high
        # Of those as large as the upper end, the first ``dropped - larger`` are too many.
        self._drop_ties = TieBreaker(dropped - high.larger) if high is not None else None
        self._keep_ties = TieBreaker(kept + dropped - low.larger) if low is not None else None

    def trim(self, delta: torch.Tensor) -> torch.Tensor:
        """``delta`` with what does not stay set to 0; the given tensor is not changed."""
        if self._kept == 0:
            return torch.zeros_like(delta)
        if self._low is None and self._high is None:
            return delta
        result = delta
        if self._low is not None:
            result = _above(delta, self._low, self._keep_ties)
        if self._high is not None:
            over = _above(delta, self._high, self._drop_ties)
            result = result - over
        return result


def _above(delta: torch.Tensor, threshold: Threshold, ties: TieBreaker | None) -> torch.Tensor:
    """``delta`` where its magnitude is larger than the threshold, and at the ties that get a place."""
    kept = torch.nn.functional.hardshrink(delta, threshold.value)
    if threshold.value == 0 or ties is None or ties.empty:
        return kept
    flat = kept.view(-1)
    bits = int(torch.tensor(threshold.value, dtype=torch.float32).view(torch.int32))
    places = torch.nonzero(magnitude_bits(delta) == bits).view(-1)
    taken = places[: ties.take(len(places))]
    flat[taken] = delta.reshape(-1)[taken]
    return kept


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


class Above:
    """Keeps every magnitude that is at least the threshold, all ties included (as the code of TIES does)."""

    def __init__(self, threshold: Threshold | None) -> None:
        self._threshold = threshold

    def trim(self, delta: torch.Tensor) -> torch.Tensor:
        """``delta`` with what does not stay set to 0."""
        if self._threshold is None:
            return delta
        # hardshrink drops what equals its bound, so the bound is the number below the threshold.
        below = torch.nextafter(torch.tensor(self._threshold.value), torch.tensor(0.0))
        return torch.nn.functional.hardshrink(delta, float(below)) if self._threshold.value > 0 else delta


Trimmer = Band | Above


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


def model_trimmers(group: TensorGroup, densities: Sequence[float]) -> list[Above]:
    """Keep the share of the whole model's entries that is largest; all ties at the threshold stay."""

    def compute() -> list[Above]:
        scope = group.model()
        elements = sum(tensor.elements for tensor in scope.groups())
        ranks = [[kept_count(density, elements)] if 0 < density < 1 else [] for density in densities]
        found = largest(scope.groups, ranks)
        nothing = Threshold(float("inf"), 0, 0)
        return [
            Above(thresholds[0] if thresholds else nothing if density <= 0 else None)
            for thresholds, density in zip(found, densities, strict=True)
        ]

    trimmers: list[Above] = group.model().once(f"ties {list(densities)}", compute)
    return trimmers
