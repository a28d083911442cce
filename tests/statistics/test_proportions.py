import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trivet.statistics.proportions import (
    adjusted_wald_paired,
    clopper_pearson,
    newcombe,
    wilson,
    zero_events_upper_bound,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_and_clopper_pearson_agree_with_scipy(count, level):
    successes, n = count
    peer = stats.binomtest(successes, n)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        interval, theirs = ours(successes, n, level=level), peer.proportion_ci(level, method)
        assert interval.low == pytest.approx(theirs.low, abs=1e-9)
        assert interval.high == pytest.approx(theirs.high, abs=1e-9)
        assert interval.low <= successes / n <= interval.high


def test_wilson_solves_the_score_equation():
    interval = wilson(7, 50)
    for rate in interval[:2]:
        assert abs(7 / 50 - rate) == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(rate * (1 - rate) / 50))


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize("n", [1, 2, 30, 1000])
def test_rates_of_0_and_1_keep_a_width(interval, n):
    none, all_ = interval(0, n), interval(n, n)
    assert none.low == 0 and none.high > 0.75 / n
    assert all_.high == 1 and all_.low == pytest.approx(1 - none.high)


def test_clopper_pearson_without_an_event_has_its_closed_form():
    assert clopper_pearson(0, 20).high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert zero_events_upper_bound(100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert zero_events_upper_bound(1000) == pytest.approx(3 / 1000, rel=0.01)


def test_newcombe_gives_the_published_example():
    # Newcombe 1998, table II, example (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339
    interval = newcombe(56, 70, 48, 80)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.0524, 0.3339)


def test_newcombe_is_antisymmetric_and_stays_in_range():
    forward, back = newcombe(9, 10, 1, 30), newcombe(1, 30, 9, 10)
    assert (forward.low, forward.high) == pytest.approx((-back.high, -back.low))
    assert newcombe(10, 10, 0, 10).high == 1


def test_the_paired_interval_is_bonett_and_price_and_never_empty():
    interval = adjusted_wald_paired(14, 5, 50)
    a, b, n = 15 / 52, 6 / 52, 52
    half = 1.959963985 * math.sqrt((a + b - (a - b) ** 2) / n)
    assert interval[:2] == pytest.approx((a - b - half, a - b + half))
    assert adjusted_wald_paired(0, 0, 100).high > 0.02


@pytest.mark.parametrize(
    ("interval", "rate", "n", "least"),
    [(wilson, 0.02, 100, 0.93), (wilson, 0.5, 30, 0.93), (clopper_pearson, 0.05, 60, 0.95)],
)
def test_coverage_by_the_whole_distribution(interval, rate, n, least):
    covered = sum(
        stats.binom.pmf(k, n, rate) for k in range(n + 1) if interval(k, n).low <= rate <= interval(k, n).high
    )
    assert covered >= least


def test_paired_interval_covers():
    generator = np.random.default_rng(1)
    cells = generator.multinomial(80, [0.06, 0.02, 0.92], size=4000)
    covered = [(i := adjusted_wald_paired(int(a), int(b), 80)).low <= 0.04 <= i.high for a, b, _ in cells]
    assert np.mean(covered) > 0.94


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(1, 0),
        lambda: wilson(3, 2),
        lambda: wilson(-1, 2),
        lambda: clopper_pearson(3, 2),
        lambda: wilson(1, 2, level=1.0),
        lambda: adjusted_wald_paired(3, 3, 5),
        lambda: adjusted_wald_paired(-1, 0, 5),
        lambda: zero_events_upper_bound(0),
    ],
)
def test_impossible_counts_are_refused(call):
    with pytest.raises(ValueError):
        call()
