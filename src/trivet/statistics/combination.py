"""A weighted sum of several means, e.g. a leg made of three components, with an interval.

Parts may be measured on different questions (then they are independent) or share some.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trivet.statistics.interval import Estimated, Interval
from trivet.statistics.means import cluster_sums, clustered_mean

Floats = npt.NDArray[np.float64]


class Part(NamedTuple):
    """One mean that goes into the sum.

    ``values`` and ``weights`` are ``[n]`` by question; ``clusters`` ``[n]`` are numbers that mean the same
    cluster in every part; ``coefficient`` is what the mean is multiplied with.
    """

    values: Floats
    weights: Floats
    clusters: npt.NDArray[np.intp]
    coefficient: float
    bounds: tuple[float, float] | None = (0.0, 1.0)


def combine(parts: Sequence[Part], *, level: float = 0.95) -> Estimated:
    """``Σ_k a_k x̄_k`` with its standard error and interval.

    The interval is MOVER (Zou and Donner 2008, *Construction of confidence limits about effect measures*;
    for a difference of two rates it is Newcombe's): each end recovers the parts' variances from the distance
    of their own interval's end, so it keeps its width where a part is at 0 or 1, and equals the usual
    combination of standard errors where the parts' intervals are symmetric. Parts that share clusters enter
    with the correlation of their means over those clusters.

    Raises:
        ValueError: no part, or a part is malformed (see ``clustered_mean``).
    """
    if not parts:
        raise ValueError("a sum needs at least one part")
    estimates = [
        clustered_mean(part.values, part.clusters.tolist(), part.weights, level=level, bounds=part.bounds)
        for part in parts
    ]
    units = len({int(c) for part in parts for c in part.clusters[part.weights > 0]})
    n = sum(estimate.n for estimate in estimates)
    values = [estimate.value for estimate in estimates]
    if any(value is None for value in values):
        return Estimated(None, None, None, n, units, "a part has no scores")
    a = np.array([part.coefficient for part in parts])
    total = float(a @ np.array(values, dtype=np.float64))
    if len(parts) == 1 and a[0] == 1:
        return estimates[0]
    correlation = _correlations(parts)
    errors = [estimate.standard_error for estimate in estimates]
    error = None if None in errors else _norm(a * np.array(errors, dtype=np.float64), correlation)
    intervals = [estimate.interval for estimate in estimates]
    if any(interval is None for interval in intervals):
        reason = next(estimate.reason for estimate in estimates if estimate.interval is None)
        return Estimated(total, error, None, n, units, f"a part has no interval: {reason}")
    # A part with a negative coefficient moves the sum down when it moves up.
    down = [x - i.low for x, i in zip(values, intervals, strict=True) if x is not None and i is not None]
    up = [i.high - x for x, i in zip(values, intervals, strict=True) if x is not None and i is not None]
    below, above = a * np.where(a > 0, down, up), a * np.where(a > 0, up, down)
    interval = Interval(
        total - _norm(below, correlation),
        total + _norm(above, correlation),
        level,
        "MOVER of the parts' intervals",
    )
    return Estimated(total, error, interval, n, units)


def _norm(lengths: Floats, correlation: Floats) -> float:
    """``√(lᵀ R l)``, the length of a sum of correlated deviations."""
    return math.sqrt(max(float(lengths @ correlation @ lengths), 0.0))


def _correlations(parts: Sequence[Part]) -> Floats:
    """``[K, K]`` correlations of the parts' means over the clusters that they share."""
    by_cluster = [_influence_by_cluster(part) for part in parts]
    result = np.eye(len(parts))
    for i, left in enumerate(by_cluster):
        for j in range(i):
            right = by_cluster[j]
            covariance = sum(value * right[c] for c, value in left.items() if c in right)
            scale = math.sqrt(_square(left) * _square(right))
            result[i, j] = result[j, i] = covariance / scale if scale > 0 else 0.0
    return result


def _influence_by_cluster(part: Part) -> dict[int, float]:
    kept = part.weights > 0
    names, codes = np.unique(part.clusters[kept], return_inverse=True)
    sums = cluster_sums(part.values[kept], codes, part.weights[kept])
    return dict(zip(names.tolist(), sums.influence().tolist(), strict=True))


def _square(influence: dict[int, float]) -> float:
    return sum(value * value for value in influence.values())
