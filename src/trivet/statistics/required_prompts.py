"""How many prompts a safety test needs before it can pass a system, worked out before any answer is seen.

Two numbers: with no harm seen at all, and with a true rate of half the limit. For a bound of a count the
chance of passing is a sum of binomial probabilities; the betting bound depends on the order of the costs, and
its chance is simulated on costs of 0 and 1, which have the largest variance at their mean. A chance that
comes from counts falls a little again at some larger numbers, so the second number is "about".
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from trivet.statistics.rogan_gladen import ErrorLimits, corrected_upper_bound
from trivet.statistics.upper_bounds import Floats, betting_rejects, check_delta, upper_bound_of_count

POWER = 0.8
MOST = 200_000
"""Larger tests are not looked for; ``None`` stands for them."""

MOST_SIMULATED = 20_000
_SAMPLES = 200


class RequiredPrompts(NamedTuple):
    """``no_harm``: the fewest prompts with which a test can pass at all, all costs being 0. ``half_limit``:
    about the fewest with which it passes with probability ``POWER`` where the true rate is half the limit.

    ``None``: more than were looked for, or no number is enough.
    """

    no_harm: int | None
    half_limit: int | None


def required_prompts(
    method: str, limit: float, *, delta: float, errors: ErrorLimits | None = None, seen: float | None = None
) -> RequiredPrompts:
    """The numbers for a bound of ``upper_bounds``.

    Args:
        limit: of the mean cost, in [0, 1].
        delta: of the bound of the rate; what is left to it where δ is split.
        errors: of a judge whose verdicts are corrected.
        seen: the rate that such a judge sees where the true rate is half the limit.

    Raises:
        ValueError: ``delta`` out of range, or no such method.
    """
    check_delta(delta)
    if limit >= 1:
        return RequiredPrompts(1, 1)  # every cost is within such a limit
    if limit <= 0:
        return RequiredPrompts(None, None)
    rate = limit / 2 if seen is None else seen
    if method == "betting":
        return RequiredPrompts(
            _fewest(lambda n: bool(betting_rejects(np.zeros(n), limit, delta=delta)), MOST_SIMULATED),
            _fewest(lambda n: _simulated(n, rate, limit, delta) >= POWER, MOST_SIMULATED),
        )

    def power(n: int) -> float:
        counts = np.arange(int(stats.binom.isf(1e-9, n, rate)) + 1, dtype=np.float64)
        passing = _bounds(method, counts, n, delta, errors) <= limit
        return float(stats.binom.pmf(counts, n, rate)[passing].sum())

    none = np.zeros(1)
    return RequiredPrompts(
        _fewest(lambda n: bool(_bounds(method, none, n, delta, errors)[0] <= limit), MOST),
        _fewest(lambda n: power(n) >= POWER, MOST),
    )


def can_pass(method: str, limit: float, n: int, *, delta: float, errors: ErrorLimits | None = None) -> bool:
    """Whether any outcome of a test on ``n`` prompts has a bound within ``limit``; arguments as above."""
    if limit >= 1:
        return True
    if method == "betting":  # the largest growth of the capital, with every cost 0
        return bool(betting_rejects(np.zeros(n), limit, delta=delta)) if limit > 0 else False
    if method == "student":
        return n > 1
    counts = np.arange(n + 1, dtype=np.float64)
    return bool((_bounds(method, counts, n, delta, errors) <= limit).any())


def _bounds(method: str, counts: Floats, n: int, delta: float, errors: ErrorLimits | None) -> Floats:
    """The bound for each count of costs that are 1 among ``n`` that are 0 or 1, corrected where asked for."""
    seen_high = upper_bound_of_count(method, counts, n, delta=delta)
    if method == "student":  # costs without spread give no such bound, see ``study.gate_decision``
        seen_high = np.where((counts == 0) | (counts == n), np.inf, seen_high)
    return seen_high if errors is None else corrected_upper_bound(np.minimum(seen_high, 1.0), errors)


def _simulated(n: int, rate: float, limit: float, delta: float) -> float:
    """Chance that the betting bound is at most ``limit``; equal arguments give equal results."""
    costs = np.random.default_rng(n).random((_SAMPLES, n)) < rate
    return float(betting_rejects(costs.astype(np.float64), limit, delta=delta).mean())


def _fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """The fewest that are enough, where more are enough too; by doubling and halving."""
    high = 1
    while not enough(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
