"""Differences between two systems on the same questions: estimate, interval and test.

Pairing pays because answers to one question correlate: ``Var(a-b) = Var a + Var b - 2 Cov(a, b)``.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from trivet.errors import DataError
from trivet.statistics.interval import Interval, t_quantile

Floats = npt.NDArray[np.float64]


class Paired(NamedTuple):
    """Scores of two systems on the questions that both have; ``dropped`` counts those that only one has."""

    ids: list[Hashable]
    a: Floats
    b: Floats
    dropped: int


def pair(a: Mapping[Hashable, float], b: Mapping[Hashable, float], *, allow_missing: bool = False) -> Paired:
    """Join two systems' scores by question id, in the order of ``a``.

    Args:
        allow_missing: join what is in both and count the rest, instead of refusing.

    Raises:
        DataError: the ids differ and ``allow_missing`` is false, or no id is in both.
    """
    shared = [key for key in a if key in b]
    dropped = len(a) + len(b) - 2 * len(shared)
    if not shared:
        raise DataError(
            "no question is in both, so they cannot be paired",
            hint="compare answers to the same questions, with the same ids",
        )
    if dropped and not allow_missing:
        odd = next(key for key in [*a, *b] if (key in a) != (key in b))
        raise DataError(
            f"the question ids differ ({dropped} are in one only, e.g. {odd!r}), so they cannot be paired",
            hint="measure both on the same questions, or allow missing ones and report how many were dropped",
        )
    return Paired(
        shared,
        np.array([a[key] for key in shared], dtype=np.float64),
        np.array([b[key] for key in shared], dtype=np.float64),
        dropped,
    )


class PairedPart(NamedTuple):
    """Differences ``[n]`` of one component with weights ``[n]`` and cluster numbers ``[n]``.

    Numbers mean the same cluster in every part; ``coefficient`` is what the mean difference is multiplied
    with; ``bounded`` is true where the scores lie in a known range of width 1.
    """

    differences: Floats
    weights: Floats
    clusters: npt.NDArray[np.intp]
    coefficient: float = 1.0
    bounded: bool = True


class PairedDifference(NamedTuple):
    """``value`` is the plain mean difference; the interval and ``p`` rest on the adjusted one (see below).

    ``interval`` and ``p`` are ``None`` where ``reason`` says why.
    """

    value: float | None
    standard_error: float | None
    degrees_of_freedom: float
    interval: Interval | None
    p: float | None
    n: int
    clusters: int
    reason: str | None = None


def paired_difference(parts: Sequence[PairedPart], *, level: float = 0.95) -> PairedDifference:
    """``Σ_k a_k d̄_k`` over components, each a weighted mean of differences, clustered, with a test of 0.

    The standard error is cluster-robust, and in each part one pair of clusters with differences ``+s`` and
    ``-s`` and average weight is added, ``s`` being the root mean square of the differences that are not 0.
    For independent 0/1 answers of one component this is the adjusted interval of Bonett and Price (2012)
    with Student's t, whose test stays near the exact McNemar's with few discordant pairs, where the plain
    t test claims too much; with many differing clusters it is the usual clustered t. Degrees of freedom:
    clusters - 1, combined over independent parts after Satterthwaite (1946); parts that share clusters form
    one unit.

    Raises:
        ValueError: no part, or shapes differ.
    """
    if not parts:
        raise ValueError("a difference needs at least one part")
    kept = [_without_weightless(part) for part in parts]
    n = sum(len(part.differences) for part in kept)
    units = len({int(c) for part in kept for c in part.clusters})
    if any(not len(part.differences) for part in kept):
        return PairedDifference(None, None, math.inf, None, None, n, units, "no question is in both")
    value = sum(
        part.coefficient * float(part.weights @ part.differences / part.weights.sum()) for part in kept
    )
    adjusted = [_adjust(part) for part in kept]
    if any(entry is None for entry in adjusted):
        reason = "every difference is 0 and the scores have no bounds, so there is no interval"
        return PairedDifference(value, None, math.inf, None, None, n, units, reason)
    centre, error, freedom = _sum_of([entry for entry in adjusted if entry is not None])
    if freedom < 1:
        reason = "one question, or one cluster of questions, gives no interval"
        return PairedDifference(value, None, math.inf, None, None, n, units, reason)
    half = t_quantile(level, freedom) * error
    limit = sum(abs(part.coefficient) for part in kept) if all(p.bounded for p in kept) else math.inf
    interval = Interval(
        min(max(centre - half, -limit), value),
        max(min(centre + half, limit), value),
        level,
        "paired, clustered, adjusted (Bonett-Price)",
    )
    p = float(2 * stats.t.sf(abs(centre) / error, freedom))
    return PairedDifference(value, error, freedom, interval, p, n, units)


class _Adjusted(NamedTuple):
    centre: float
    influence: dict[int, float]
    added: float  # sum of squares of the two clusters that were added


def _without_weightless(part: PairedPart) -> PairedPart:
    if not part.differences.shape == part.weights.shape == part.clusters.shape:
        raise ValueError("differences, weights and clusters must be of one length")
    kept = part.weights > 0
    return part._replace(
        differences=part.differences[kept], weights=part.weights[kept], clusters=part.clusters[kept]
    )


def _adjust(part: PairedPart) -> _Adjusted | None:
    names, codes = np.unique(part.clusters, return_inverse=True)
    weights = np.bincount(codes, weights=part.weights)
    totals = np.bincount(codes, weights=part.weights * part.differences)
    mean_weight = float(weights.mean())
    moved = totals[np.abs(totals) > 1e-12 * mean_weight]
    if len(moved):
        size = math.sqrt(float(np.square(moved).mean()))
    elif part.bounded:
        size = mean_weight
    else:
        return None
    whole = float(weights.sum()) + 2 * mean_weight
    centre = float(totals.sum()) / whole
    influence = part.coefficient * (totals - centre * weights) / whole
    shift = centre * mean_weight
    added = part.coefficient**2 * ((size - shift) ** 2 + (size + shift) ** 2) / whole**2
    return _Adjusted(
        part.coefficient * centre, dict(zip(names.tolist(), influence.tolist(), strict=True)), added
    )


def _sum_of(parts: list[_Adjusted]) -> tuple[float, float, float]:
    """Centre, standard error and degrees of freedom; parts that share a cluster are one unit."""
    units: list[tuple[dict[int, float], float]] = []
    for part in parts:
        influence, added = dict(part.influence), part.added
        apart = []
        for other, other_added in units:
            if influence.keys() & other.keys():
                for cluster, value in other.items():
                    influence[cluster] = influence.get(cluster, 0.0) + value
                added += other_added
            else:
                apart.append((other, other_added))
        units = [*apart, (influence, added)]
    variances = [sum(v * v for v in influence.values()) + added for influence, added in units]
    freedoms = [len(influence) - 1 for influence, _ in units]
    centre = sum(part.centre for part in parts)
    total = sum(variances)
    if min(freedoms) < 1:
        return centre, math.sqrt(total), 0.0
    freedom = total**2 / sum(v * v / f for v, f in zip(variances, freedoms, strict=True))
    return centre, math.sqrt(total), freedom
