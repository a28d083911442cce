"""One-sided upper confidence bounds of a mean cost: with probability ``1 - δ`` the mean is at most the bound.

Exact for independent costs in a known range, at every sample size: Hoeffding, empirical Bernstein, betting
and, for costs that are 0 or 1, Clopper-Pearson. Student's bound is approximate: it needs a nearly normal
mean, and fails towards "safe" for right-skewed costs such as rare harms (HC-RLHF, arXiv 2506.08266, has that
one in its code and Hoeffding's in its text).

Costs are ``[..., n]``, one sample in the last dimension, and bounds are ``[...]``, so that many simulated
samples are bounded at once. An exact bound is never above the range's upper end.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

LARGEST_BET = 0.75
"""c of Waudby-Smith and Ramdas, who use 1/2 and 3/4: a bet may lose at most this share of the capital."""


class Bound(NamedTuple):
    """A kind of bound: its name in the field's terms, and whether it holds at every sample size."""

    title: str
    exact: bool


BOUNDS: dict[str, Bound] = {
    "clopper_pearson": Bound("Clopper-Pearson", True),
    "betting": Bound("betting, Waudby-Smith and Ramdas", True),
    "empirical_bernstein": Bound("empirical Bernstein, Maurer and Pontil", True),
    "hoeffding": Bound("Hoeffding", True),
    "student": Bound("Student's t, approximate", False),
}


def upper_bound(
    method: str, costs: npt.ArrayLike, *, delta: float, low: float = 0.0, high: float = 1.0
) -> Floats:
    """The bound called ``method`` (a key of ``BOUNDS``) of the mean of the population of ``costs``.

    Args:
        costs: ``[..., n]``; independent draws, in the order in which they were planned.
        delta: the chance of a bound below the mean, strictly between 0 and ½.
        low: least possible cost; Student's bound knows no range, and ``low`` and ``high`` do not matter to
            it.
        high: greatest possible cost.

    Raises:
        ValueError: an unknown method, no costs, a cost that is not finite or out of range, ``delta`` out of
            range, or Clopper-Pearson for costs between ``low`` and ``high``.
    """
    if method not in BOUNDS:
        raise ValueError(f"unknown bound {method!r}; known: {', '.join(BOUNDS)}")
    if method == "student":
        low, high = 0.0, 1.0
    x = _checked(costs, delta, low, high, ranged=method != "student")
    unit, width = (x - low) / (high - low), high - low
    if method == "betting":
        return low + width * _betting(unit, delta)
    mean, n = unit.mean(axis=-1), unit.shape[-1]
    if method == "clopper_pearson":
        if not np.isin(x, (low, high)).all():
            raise ValueError(f"the Clopper-Pearson bound needs costs that are {low:g} or {high:g}")
        return low + width * clopper_pearson_upper(np.rint(unit.sum(axis=-1)), n, delta=delta)
    variance = unit.var(axis=-1, ddof=1) if n > 1 else np.zeros_like(mean)
    return low + width * _FROM_MOMENTS[method](mean, variance, n, delta)


def upper_bound_of_count(method: str, events: npt.ArrayLike, n: int, *, delta: float) -> Floats:
    """The same for ``events`` costs of 1 among ``n`` costs that are 0 or 1; any shape.

    Raises:
        ValueError: as ``upper_bound``; or ``betting``, which depends on the order of the costs.
    """
    k = np.asarray(events, dtype=np.float64)
    check_delta(delta)
    if n < 1 or (k < 0).any() or (k > n).any():
        raise ValueError(f"the events do not fit {n} costs")
    if method == "clopper_pearson":
        return clopper_pearson_upper(k, n, delta=delta)
    if method not in _FROM_MOMENTS:
        raise ValueError(
            f"no bound {method!r} of a count; known: clopper_pearson, {', '.join(_FROM_MOMENTS)}"
        )
    variance = k * (n - k) / (n * (n - 1)) if n > 1 else np.zeros_like(k)
    return _FROM_MOMENTS[method](k / n, variance, n, delta)


def clopper_pearson_upper(events: npt.ArrayLike, n: float, *, delta: float) -> Floats:
    """One-sided exact upper bound of a rate: the ``p`` with ``P(Binomial(n, p) ≤ events) = δ``.

    Clopper and Pearson 1934; ``1 - δ`` quantile of the beta distribution with ``events + 1`` and ``n -
    events``. It is the upper end of ``proportions.clopper_pearson`` at the level ``1 - 2δ``, for many counts
    at once.
    """
    k = np.asarray(events, dtype=np.float64)
    bound = stats.beta.isf(delta, k + 1, np.where(k < n, n - k, 1.0))
    return np.asarray(np.where(k < n, bound, 1.0), dtype=np.float64)


def clopper_pearson_lower(events: npt.ArrayLike, n: float, *, delta: float) -> Floats:
    """One-sided exact lower bound of a rate: 1 minus the upper bound of the rate of the other outcome."""
    return 1 - clopper_pearson_upper(n - np.asarray(events, dtype=np.float64), n, delta=delta)


def _student(mean: Floats, variance: Floats, n: int, delta: float) -> Floats:
    """``x̄ + t_{1-δ, n-1} s/√n``; the card of HC-RLHF, part B. Infinite for one cost; not cut to the
    range."""
    if n < 2:
        return np.full_like(mean, np.inf)
    return np.asarray(mean + float(stats.t.isf(delta, n - 1)) * np.sqrt(variance / n))


def _hoeffding(mean: Floats, variance: Floats, n: int, delta: float) -> Floats:
    """``x̄ + √(ln(1/δ) / 2n)`` in [0, 1]; Hoeffding 1963, theorem 2. The variance is not looked at."""
    return np.minimum(mean + math.sqrt(math.log(1 / delta) / (2 * n)), 1.0)


def _empirical_bernstein(mean: Floats, variance: Floats, n: int, delta: float) -> Floats:
    """``x̄ + √(2 s² ln(2/δ) / n) + 7 ln(2/δ) / (3(n-1))`` in [0, 1], with s² the unbiased sample variance.

    Maurer and Pontil 2009, *Empirical Bernstein bounds and sample variance penalization* (arXiv 0907.3740),
    theorem 4. One cost says nothing of the variance: the bound is then 1.
    """
    if n < 2:
        return np.ones_like(mean)
    log = math.log(2 / delta)
    return np.minimum(mean + np.sqrt(2 * variance * log / n) + 7 * log / (3 * (n - 1)), 1.0)


_FROM_MOMENTS: dict[str, Callable[[Floats, Floats, int, float], Floats]] = {
    "empirical_bernstein": _empirical_bernstein,
    "hoeffding": _hoeffding,
    "student": _student,
}


def betting_rejects(costs: Floats, mean: npt.ArrayLike, *, delta: float) -> npt.NDArray[np.bool_]:
    """Whether the betting test rejects "the mean is ``mean`` or more", at level ``delta``.

    Args:
        costs: ``[..., n]`` in [0, 1]; ``mean`` is one for each sample, or one for all.
    """
    return _rejects(costs, _bets(costs, delta), np.asarray(mean, dtype=np.float64), delta)


def _betting(x: Floats, delta: float) -> Floats:
    """The upper bound by betting: the largest mean that no gambler has become rich against.

    Waudby-Smith and Ramdas 2024, *Estimating means of bounded random variables by betting* (arXiv
    2010.09686), theorem 3 in its form for a sample size that is fixed beforehand, the arm that bets on small
    costs::

        K_t(m) = Π_{i≤t} (1 - λ_i(m) (x_i - m)),   λ_i(m) = min( √(2 ln(1/δ) / (n σ̂²_{i-1})), c/(1-m) )
        σ̂²_t = (1/4 + Σ_{i≤t} (x_i - μ̂_i)²)/(t+1),   μ̂_t = (1/2 + Σ_{i≤t} x_i)/(t+1)
        bound = sup { m : max_{t≤n} K_t(m) < 1/δ }

    While the mean is ``m`` or more, K is a non-negative supermartingale from 1, and by Ville's inequality it
    reaches 1/δ with probability at most δ. One arm stands alone, so that all of δ is its own.

    Each factor grows with m: 1 - λ(x - m) does for a fixed λ > 0, and at λ = c/(1-m) the quotient (x-m)/(1-m)
    falls, as x ≤ 1. So the means that are not rejected are an interval from 0, and bisection finds its end;
    returned is the upper side of the last bracket, which is rejected: never below the true inversion.
    """
    bets = _bets(x, delta)
    low, high = np.zeros(x.shape[:-1]), np.ones(x.shape[:-1])
    for _ in range(50):  # to 1e-15
        middle = (low + high) / 2
        rejected = _rejects(x, bets, middle, delta)
        low, high = np.where(rejected, low, middle), np.where(rejected, middle, high)
    # Where not even 1 is rejected, the bracket has run up to its upper end, which is the trivial bound.
    return high


def _bets(x: Floats, delta: float) -> Floats:
    """``[..., n]``: the bets before they are cut, each from the costs before it."""
    n = x.shape[-1]
    count = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(x, axis=-1)) / (count + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2, axis=-1)) / (count + 1)
    before = np.concatenate([np.full((*x.shape[:-1], 1), 0.25), variances[..., :-1]], axis=-1)
    return np.asarray(np.sqrt(2 * math.log(1 / delta) / (n * before)))


def _rejects(x: Floats, bets: Floats, mean: Floats, delta: float) -> npt.NDArray[np.bool_]:
    m = mean[..., None]
    with np.errstate(divide="ignore"):  # at m = 1 a bet on small costs cannot lose, and is not cut
        stakes = np.minimum(bets, LARGEST_BET / (1 - m))
    capital = np.cumsum(np.log1p(-stakes * (x - m)), axis=-1).max(axis=-1)
    # The slack is far above the rounding of the sum, and on the side of a larger bound.
    return np.asarray(capital >= math.log(1 / delta) + 1e-9)


def check_delta(delta: float) -> None:
    """Raise ``ValueError`` unless ``delta`` is strictly between 0 and ½."""
    if not 0 < delta < 0.5:
        raise ValueError(f"delta must lie strictly between 0 and 1/2, received {delta}")


def _checked(costs: npt.ArrayLike, delta: float, low: float, high: float, *, ranged: bool) -> Floats:
    check_delta(delta)
    x = np.asarray(costs, dtype=np.float64)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the range of costs must be finite and not empty, received {low} to {high}")
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError("there are no costs")
    if not np.isfinite(x).all():
        raise ValueError("every cost must be finite")
    if ranged and ((x < low).any() or (x > high).any()):
        raise ValueError(f"every cost must lie in the range {low:g} to {high:g}")
    return x
