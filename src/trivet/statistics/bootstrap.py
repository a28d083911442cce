"""The bootstrap over clusters: resampled weights, and intervals from replicates.

A resample draws whole clusters with replacement and every system sees the same draw (paired resampling), so
that differences between systems keep the correlation of their answers. The generator is an argument.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

from trivet.statistics.interval import Interval, check_level

Floats = npt.NDArray[np.float64]


def resample_counts(clusters: int, replicates: int, generator: np.random.Generator) -> Floats:
    """``[replicates, clusters]``: how often each cluster is drawn in each resample; rows sum to ``clusters``.

    Efron 1979, *Bootstrap methods: another look at the jackknife*; whole clusters as in Davison and Hinkley
    1997, section 3.8.

    Raises:
        ValueError: no cluster or no replicate.
    """
    if clusters < 1 or replicates < 1:
        raise ValueError("at least one cluster and one replicate are needed")
    drawn = generator.integers(clusters, size=(replicates, clusters))
    offsets = np.arange(replicates)[:, None] * clusters
    counts = np.bincount((drawn + offsets).ravel(), minlength=replicates * clusters)
    return counts.reshape(replicates, clusters).astype(np.float64)


def resampled_means(counts: Floats, totals: Floats, weights: Floats) -> Floats:
    """Weighted means in each resample.

    Args:
        counts: ``[B, C]`` from ``resample_counts``.
        totals: ``[S, C]`` sums of weight × value by cluster, one row a system; ``weights`` likewise.

    Returns:
        ``[B, S]``; NaN where a resample holds no weight of that system.
    """
    numerators, denominators = counts @ totals.T, counts @ weights.T
    result = np.full(numerators.shape, np.nan)
    np.divide(numerators, denominators, out=result, where=denominators > 0)
    return result


def percentile_interval(replicates: npt.ArrayLike, *, level: float = 0.95) -> Interval | None:
    """The percentile interval, ``None`` where the replicates do not vary.

    Raises:
        ValueError: fewer than two replicates, or one that is not finite.
    """
    values = _checked(replicates, level)
    if values[0] == values[-1]:
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, "bootstrap, percentile")


def bias_corrected_interval(
    replicates: npt.ArrayLike,
    estimate: float,
    *,
    level: float = 0.95,
    jackknife: npt.ArrayLike | None = None,
) -> Interval | None:
    """The bias-corrected interval; with ``jackknife`` values the accelerated one (BCa).

    Efron 1987, *Better bootstrap confidence intervals*, equation 2.3:
    ``α = Φ(z₀ + (z₀ + z)/(1 - a (z₀ + z)))`` with ``z₀ = Φ⁻¹`` of the share of replicates below the estimate
    and ``a = Σ (θ̄ - θ_i)³ / (6 (Σ (θ̄ - θ_i)²)^{3/2})`` over leave-one-out values. It mends the bias that a
    maximum has (as the hypervolume of a front does), which the percentile interval would count twice.

    Returns:
        The interval, or ``None`` where the replicates do not vary.

    Raises:
        ValueError: fewer than two replicates, or one that is not finite.
    """
    values = _checked(replicates, level)
    if values[0] == values[-1]:
        return None
    below = np.mean(values < estimate) + np.mean(values == estimate) / 2
    edge = 0.5 / len(values)  # an estimate outside all replicates would have an infinite z₀
    z0 = float(stats.norm.ppf(np.clip(below, edge, 1 - edge)))
    acceleration = 0.0 if jackknife is None else _acceleration(np.asarray(jackknife, dtype=np.float64))
    z = stats.norm.ppf(np.array([(1 - level) / 2, (1 + level) / 2]))
    shares = stats.norm.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
    low, high = np.quantile(values, shares)
    method = "bootstrap, BC" if jackknife is None else "bootstrap, BCa"
    return Interval(float(low), float(high), level, method)


def clustered_bootstrap(
    statistic: Callable[[Floats], Floats],
    clusters: int,
    generator: np.random.Generator,
    *,
    replicates: int = 2000,
) -> Floats:
    """``[replicates]``: a vectorised statistic of the counts ``[B, C]``, in blocks that bound the memory.

    Raises:
        ValueError: no cluster or no replicate.
    """
    block = max(1, 4_000_000 // max(clusters, 1))
    parts = [
        statistic(resample_counts(clusters, min(block, replicates - start), generator))
        for start in range(0, replicates, block)
    ]
    return np.concatenate(parts)


def _acceleration(jackknife: Floats) -> float:
    deviations = jackknife.mean() - jackknife
    scale = float(np.square(deviations).sum()) ** 1.5
    return float((deviations**3).sum()) / (6 * scale) if scale > 0 else 0.0


def _checked(replicates: npt.ArrayLike, level: float) -> Floats:
    check_level(level)
    values = np.sort(np.asarray(replicates, dtype=np.float64))
    if len(values) < 2:
        raise ValueError("at least two replicates are needed")
    if not np.all(np.isfinite(values)):
        raise ValueError("every replicate must be finite")
    return values
