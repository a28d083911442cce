"""Intervals for rates: Wilson, Clopper-Pearson, Newcombe's difference, and the paired difference.

The normal ("Wald") interval is not here: near 0 and 1 and under 100 observations its coverage collapses
(Brown, Cai and DasGupta 2001, *Interval estimation for a binomial proportion*).
"""

import math

from scipy import stats

from trivet.statistics.interval import Interval, check_level, normal_quantile


def wilson(successes: float, n: float, *, level: float = 0.95, quantile: float | None = None) -> Interval:
    """Wilson's score interval for a rate.

    Wilson 1927, *Probable inference*: the rates ``p`` with ``|p̂ - p| ≤ z √(p(1-p)/n)``,
    ``(p̂ + z²/2n ± z √(p̂(1-p̂)/n + z²/4n²)) / (1 + z²/n)``.

    Args:
        successes: number of successes; need not be whole, so that an effective sample size can be used.
        n: number of trials, above 0.
        quantile: takes the place of z, e.g. Student's where the sample size was itself estimated.

    Raises:
        ValueError: not ``0 ≤ successes ≤ n``, or ``n ≤ 0``.
    """
    _check_counts(successes, n)
    z = normal_quantile(level) if quantile is None else quantile
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The interval touches 0 and 1 exactly at those rates; rounding must not move the estimate outside.
    low = 0.0 if successes == 0 else min(max(centre - half, 0.0), rate)
    high = 1.0 if successes == n else max(min(centre + half, 1.0), rate)
    return Interval(low, high, level, "Wilson")


def clopper_pearson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """The exact interval of Clopper and Pearson (1934), from quantiles of the beta distribution.

    With no success its upper end is ``1 - ((1-level)/2)^(1/n)``.

    Raises:
        ValueError: not ``0 ≤ successes ≤ n``, or ``n ≤ 0``.
    """
    _check_counts(successes, n)
    check_level(level)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.ppf(1 - tail, successes + 1, n - successes))
    return Interval(low, high, level, "Clopper-Pearson")


def zero_events_upper_bound(n: int, *, level: float = 0.95) -> float:
    """One-sided upper bound of a rate after no event in ``n`` trials: ``1 - (1-level)^(1/n)``, about 3/n.

    Hanley and Lippman-Hand 1983, *If nothing goes wrong, is everything all right?*

    Raises:
        ValueError: ``n`` is not positive.
    """
    check_level(level)
    if n <= 0:
        raise ValueError(f"n must be positive, received {n}")
    return 1 - float((1 - level) ** (1 / n))


def newcombe(
    successes_a: float, n_a: float, successes_b: float, n_b: float, *, level: float = 0.95
) -> Interval:
    """Interval for the difference ``a - b`` of two independent rates.

    Newcombe 1998, *Interval estimation for the difference between independent proportions*, method 10:
    ``d - √((p_a-l_a)² + (u_b-p_b)²), d + √((u_a-p_a)² + (p_b-l_b)²)`` with Wilson's ``l`` and ``u``.

    Raises:
        ValueError: counts out of range.
    """
    a, b = wilson(successes_a, n_a, level=level), wilson(successes_b, n_b, level=level)
    p_a, p_b = successes_a / n_a, successes_b / n_b
    difference = p_a - p_b
    low = difference - math.hypot(p_a - a.low, b.high - p_b)
    high = difference + math.hypot(a.high - p_a, p_b - b.low)
    return Interval(max(low, -1.0), min(high, 1.0), level, "Newcombe")


def adjusted_wald_paired(only_a: int, only_b: int, n: int, *, level: float = 0.95) -> Interval:
    """Interval for the difference ``a - b`` of two rates on the same ``n`` items.

    Bonett and Price 2012, *Adjusted Wald confidence interval for a difference of binomial proportions based
    on paired data*: one is added to each discordant count, ``p = (count + 1)/(n + 2)``, and
    ``p_a - p_b ± z √((p_a + p_b - (p_a - p_b)²)/(n + 2))``.

    Args:
        only_a: items that only a has right; ``only_b`` likewise.

    Raises:
        ValueError: the discordant counts are negative or exceed ``n``, or ``n`` is 0.
    """
    if n <= 0 or only_a < 0 or only_b < 0 or only_a + only_b > n:
        raise ValueError(f"discordant counts {only_a} and {only_b} do not fit {n} items")
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = normal_quantile(level) * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return Interval(max(a - b - half, -1.0), min(a - b + half, 1.0), level, "Bonett-Price")


def _check_counts(successes: float, n: float) -> None:
    if not n > 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes do not fit {n} trials")
