"""Means of scores whose rows are not independent: cluster-robust standard errors and intervals.

The unit of inference is the question, or a cluster of related questions; answers of one question are averaged
before they come here.
"""

import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trivet.statistics.interval import Estimated, Interval, t_quantile
from trivet.statistics.proportions import wilson

Floats = npt.NDArray[np.float64]


class ClusterSums(NamedTuple):
    """Sums within each cluster: ``totals`` of weight × value and ``weights``, both ``[C]``."""

    totals: Floats
    weights: Floats

    @property
    def mean(self) -> float:
        """The weighted mean over all rows."""
        return float(self.totals.sum() / self.weights.sum())

    def influence(self) -> Floats:
        """``[C]``: what each cluster adds to the deviation of the mean; they sum to 0."""
        deviations: Floats = (self.totals - self.mean * self.weights) / self.weights.sum()
        return deviations


def cluster_codes(clusters: Iterable[Hashable]) -> npt.NDArray[np.intp]:
    """Numbers 0 … C-1 in order of first appearance, one for each row."""
    numbers: dict[Hashable, int] = {}
    return np.fromiter((numbers.setdefault(name, len(numbers)) for name in clusters), dtype=np.intp)


def cluster_sums(values: Floats, codes: npt.NDArray[np.intp], weights: Floats | None = None) -> ClusterSums:
    """Sum rows by cluster. Clusters without weight are left out."""
    weights = np.ones(len(values)) if weights is None else weights
    totals = np.asarray(np.bincount(codes, weights=weights * values), dtype=np.float64)
    by_cluster = np.asarray(np.bincount(codes, weights=weights), dtype=np.float64)
    kept = by_cluster > 0
    return ClusterSums(totals[kept], by_cluster[kept])


def clustered_standard_error(sums: ClusterSums) -> float | None:
    """Cluster-robust standard error of the mean, ``None`` with fewer than two clusters.

    ``√( C/(C-1) Σ_c (Σ_{i∈c} w_i (x_i - x̄))² ) / Σ w_i``: Liang and Zeger 1986, *Longitudinal data analysis
    using generalized linear models*; Miller 2024 (arXiv 2411.00640), equation 4, with the finite correction.
    """
    count = len(sums.totals)
    if count < 2:
        return None
    return math.sqrt(count / (count - 1) * float(np.square(sums.influence()).sum()))


def clustered_mean(
    values: npt.ArrayLike,
    clusters: Iterable[Hashable] | None = None,
    weights: npt.ArrayLike | None = None,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Estimated:
    """The mean of scores with a cluster-robust standard error and an interval.

    Scores within ``bounds`` get Wilson's interval with the effective sample size
    ``x̄(1-x̄) / SE² × C/(C-1)`` (Kish 1965; Korn and Graubard 1998 use the same for Clopper-Pearson): it is
    Wilson's own for independent 0/1 scores, agrees with the t interval in the middle, stays within the
    bounds, and keeps its width at 0 and 1. Other scores get the t interval with C-1 degrees of freedom.

    Args:
        values: ``[n]``, one score a question.
        clusters: ``[n]``, the independent unit that a question belongs to; by default each its own.
        weights: ``[n]``, not negative; by default 1.
        bounds: the scores' least and greatest possible values, ``None`` where there are none.

    Raises:
        ValueError: shapes differ, a value is not finite or out of bounds, a weight is negative.
    """
    x = np.asarray(values, dtype=np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    codes = np.arange(len(x)) if clusters is None else cluster_codes(clusters)
    _check(x, w, codes, bounds)
    kept = w > 0
    x, w, codes = x[kept], w[kept], codes[kept]
    if not len(x):
        return Estimated(None, None, None, 0, 0, "there are no scores")
    sums = cluster_sums(x, codes, w)
    mean, error, count = sums.mean, clustered_standard_error(sums), len(sums.totals)
    if bounds is None:
        interval, reason = _t_interval(mean, error, count, level)
    else:
        independent = count == len(x) and bool(np.all(w == w[0])) and set(np.unique(x)) <= set(bounds)
        interval, reason = _bounded_interval(sums, mean, error, level, bounds, independent), None
    return Estimated(mean, error, interval, len(x), count, reason)


def _t_interval(
    mean: float, error: float | None, count: int, level: float
) -> tuple[Interval | None, str | None]:
    if error is None:
        return None, "one question, or one cluster of questions, gives no interval"
    if error == 0:
        return None, "every score is the same and the scores have no bounds, so there is no interval"
    half = t_quantile(level, count - 1) * error
    return Interval(mean - half, mean + half, level, "t, clustered"), None


def _bounded_interval(
    sums: ClusterSums,
    mean: float,
    error: float | None,
    level: float,
    bounds: tuple[float, float],
    independent: bool,
) -> Interval:
    low, width = bounds[0], bounds[1] - bounds[0]
    count = len(sums.totals)
    rate = min(max((mean - low) / width, 0.0), 1.0)
    # Without spread between clusters, a cluster counts as one observation (Kish's size for unequal weights).
    size = float(sums.weights.sum() ** 2 / np.square(sums.weights).sum())
    quantile = None
    # Sums of equal scores differ from 0 by rounding alone; such a spread would give a size of 1e30.
    if error is not None and error > 1e-12 * width and 0 < rate < 1:
        size = rate * (1 - rate) / (error / width) ** 2 * count / (count - 1)
        quantile = None if independent else t_quantile(level, count - 1)
    unit = wilson(rate * size, size, level=level, quantile=quantile)
    method = "Wilson" if independent else "Wilson, clustered"
    return Interval(low + width * unit.low, low + width * unit.high, level, method)


def _check(x: Floats, w: Floats, codes: npt.NDArray[np.intp], bounds: tuple[float, float] | None) -> None:
    if x.ndim != 1 or x.shape != w.shape or x.shape != codes.shape:
        raise ValueError("values, weights and clusters must be one-dimensional and of one length")
    if not np.all(np.isfinite(x)):
        raise ValueError("every score must be finite; leave out what could not be scored")
    if not np.all(np.isfinite(w)) or np.any(w < 0):
        raise ValueError("weights must be finite and not negative")
    if bounds is not None and len(x) and (x.min() < bounds[0] or x.max() > bounds[1]):
        raise ValueError(f"a score lies outside its bounds {bounds}")
