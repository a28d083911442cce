"""Upper confidence bounds of a mean: coverage by simulation, degenerate samples, closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from trivet.statistics.proportions import clopper_pearson, zero_events_upper_bound
from trivet.statistics.upper_bounds import (
    BOUNDS,
    LARGEST_BET,
    betting_rejects,
    clopper_pearson_lower,
    clopper_pearson_upper,
    upper_bound,
    upper_bound_of_count,
)

EXACT = [name for name, bound in BOUNDS.items() if bound.exact]
RANGED = [name for name in EXACT if name != "clopper_pearson"]
DELTAS = (0.01, 0.05, 0.1, 0.3)


def below(method, costs, mean, delta, **more):
    """How often the bound is below the mean, which is how often a system at the limit would pass."""
    return float((upper_bound(method, costs, delta=delta, **more) <= mean).mean())


def slack(delta, trials):
    return 3 * math.sqrt(delta * (1 - delta) / trials)


# Card 08, check 6: pass rates of Student at mean = limit with normal costs; the card ran .099, .101, .097.
@pytest.mark.parametrize("n", [20, 100, 1000])
@pytest.mark.parametrize("delta", [0.1, 0.05])
def test_student_is_calibrated_for_normal_costs(n, delta):
    trials = 20_000 if n < 1000 else 6000
    costs = np.random.default_rng(n).standard_normal((trials, n)).astype(np.float64) * 3 - 7
    assert below("student", costs, -7.0, delta) == pytest.approx(delta, abs=slack(delta, trials))


# Card 08, check 7: where Student is wrong, and the product has to warn.
@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("right-skewed", (0.167, 0.130, 0.105)),
        ("rare", (0.124, 0.119, 0.108)),
        ("left-skewed", (0.059, 0.080, 0.098)),
    ],
)
def test_students_known_limits(kind, figures):
    rng = np.random.default_rng(1)
    for n, figure in zip((20, 100, 1000), figures, strict=True):
        trials = 20_000 if n < 1000 else 6000
        if kind == "rare":
            costs, mean = (rng.random((trials, n)) < 0.1).astype(float), 0.1
        else:
            costs, mean = rng.exponential(size=(trials, n)) - 1, 0.0
            costs = costs if kind == "right-skewed" else -costs
        assert below("student", costs, mean, 0.1) == pytest.approx(figure, abs=0.012)


# Card 08, check 8.
def test_hoeffding_never_fails_and_is_above_student():
    rng = np.random.default_rng(2)
    for n in (20, 60):
        for costs in (rng.random((500, n)), rng.beta(0.1, 0.1, (500, n)), rng.random((500, n)) < 0.5):
            x = np.asarray(costs, dtype=float)
            for delta in (0.05, 0.1):
                hoeffding = x.mean(axis=-1) + math.sqrt(math.log(1 / delta) / (2 * n))
                assert (hoeffding >= upper_bound("student", x, delta=delta)).all()
                assert (upper_bound("hoeffding", x, delta=delta) == np.minimum(hoeffding, 1)).all()


SHAPES = {
    "rare": (lambda rng, size: (rng.random(size) < 0.03).astype(float), 0.03),
    "frequent": (lambda rng, size: (rng.random(size) < 0.6).astype(float), 0.6),
    "uniform": (lambda rng, size: rng.random(size), 0.5),
    "skewed": (lambda rng, size: rng.beta(0.2, 3.0, size), 0.2 / 3.2),
    "high": (lambda rng, size: rng.beta(3.0, 0.3, size), 3.0 / 3.3),
    "constant": (lambda rng, size: np.full(size, 0.25), 0.25),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", RANGED)
@pytest.mark.parametrize("n", [1, 5, 40, 150])
def test_exact_bounds_cover_every_distribution(shape, method, n):
    make, mean = SHAPES[shape]
    trials = 800
    costs = make(np.random.default_rng(3), (trials, n))
    for delta in (0.05, 0.2):
        assert below(method, costs, mean - 1e-12, delta) <= delta + slack(delta, trials)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5, 0.97])
@pytest.mark.parametrize("n", [1, 7, 59, 500])
@pytest.mark.parametrize("delta", DELTAS)
def test_clopper_pearson_covers_exactly_by_the_binomial_sum(rate, n, delta):
    counts = np.arange(n + 1)
    bounds = clopper_pearson_upper(counts, n, delta=delta)
    assert stats.binom.pmf(counts, n, rate)[bounds < rate].sum() <= delta + 1e-12
    lower = clopper_pearson_lower(counts, n, delta=delta)
    assert stats.binom.pmf(counts, n, rate)[lower > rate].sum() <= delta + 1e-12


@given(
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from(DELTAS)
)
def test_clopper_pearson_agrees_with_the_interval_and_with_scipy(count, delta):
    k, n = count
    upper, lower = clopper_pearson_upper(k, n, delta=delta), clopper_pearson_lower(k, n, delta=delta)
    interval = clopper_pearson(k, n, level=1 - 2 * delta)
    assert (float(lower), float(upper)) == pytest.approx((interval.low, interval.high), abs=1e-10)
    peer = stats.binomtest(k, n, alternative="less").proportion_ci(1 - delta, "exact")
    assert float(upper) == pytest.approx(peer.high, abs=1e-9)
    if k == 0:
        assert float(upper) == pytest.approx(zero_events_upper_bound(n, level=1 - delta), abs=1e-12)


def test_student_agrees_with_scipy():
    x = np.random.default_rng(4).random(37)
    peer = stats.ttest_1samp(x, 0.0, alternative="less").confidence_interval(0.95).high
    assert float(upper_bound("student", x, delta=0.05)) == pytest.approx(peer)
    assert stats.t.isf(0.1, 99) == pytest.approx(1.2902, abs=1e-4)  # the card's table


def test_empirical_bernstein_is_the_papers_formula():
    x = np.array([0.0, 0.5, 1.0, 0.25] * 50)
    log = math.log(2 / 0.1)
    expected = x.mean() + math.sqrt(2 * x.var(ddof=1) * log / 200) + 7 * log / (3 * 199)
    assert float(upper_bound("empirical_bernstein", x, delta=0.1)) == pytest.approx(expected, rel=1e-12)


def capital(x, m, delta):
    """The betting capital at its highest, cost by cost as the paper writes it."""
    n, total, spread, best, now = len(x), 0.5, 0.25, -math.inf, 1.0
    variance = 0.25
    for t, cost in enumerate(x, 1):
        stake = min(math.sqrt(2 * math.log(1 / delta) / (n * variance)), LARGEST_BET / (1 - m))
        now *= 1 - stake * (cost - m)
        best = max(best, now)
        total += cost
        spread += (cost - total / (t + 1)) ** 2
        variance = spread / (t + 1)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_betting_is_the_papers_inversion_and_never_below_it(seed):
    rng = np.random.default_rng(seed)
    x = rng.beta(*rng.uniform(0.2, 3, 2), 60)
    bound = float(upper_bound("betting", x, delta=0.05))
    root = optimize.brentq(lambda m: math.log(capital(x, m, 0.05) * 0.05), x.mean() / 2, 1 - 1e-9, xtol=1e-14)
    assert bound == pytest.approx(root, abs=1e-9)
    assert bound >= root - 1e-13
    assert capital(x, bound, 0.05) >= 1 / 0.05
    assert betting_rejects(x, bound, delta=0.05)


def test_betting_capital_grows_with_the_mean():
    """What makes the means that are not rejected an interval."""
    rng = np.random.default_rng(5)
    for x in (rng.random(30), (rng.random(30) < 0.2).astype(float), rng.beta(0.1, 2, 30)):
        values = [capital(x, m, 0.05) for m in np.linspace(0, 0.999, 300)]
        assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(values))


def test_betting_beats_the_other_bounds_on_typical_costs():
    costs = np.random.default_rng(6).beta(0.5, 5, (50, 300))
    means = {name: upper_bound(name, costs, delta=0.05).mean() for name in RANGED}
    assert means["betting"] < means["empirical_bernstein"] < means["hoeffding"]


@pytest.mark.parametrize("n", [1, 2, 3, 50, 400])
@pytest.mark.parametrize("method", EXACT)
def test_all_zero_and_all_one(method, n):
    zeros = float(upper_bound(method, np.zeros(n), delta=0.05))
    assert 0 < zeros <= 1
    assert zeros >= zero_events_upper_bound(n, level=0.95) - 1e-9  # no exact bound can be smaller
    assert float(upper_bound(method, np.ones(n), delta=0.05)) == 1


def test_one_cost_or_no_spread():
    assert float(upper_bound("student", [0.5], delta=0.05)) == math.inf
    assert float(upper_bound("empirical_bernstein", [0.0], delta=0.05)) == 1
    assert (
        float(upper_bound("student", np.zeros(9), delta=0.05)) == 0
    )  # which is why the gate does not use it
    for method in RANGED:
        assert 0.25 < float(upper_bound(method, np.full(500, 0.25), delta=0.05)) < 0.35


@pytest.mark.parametrize("method", EXACT)
def test_more_prompts_and_a_larger_delta_lower_the_bound(method):
    rng = np.random.default_rng(7)
    for rate in (0.0, 0.1):  # of many samples, since a bet depends on how many are planned
        costs = [(rng.random((200, n)) < rate).astype(float) for n in (20, 40, 80, 160)]
        sizes = [float(upper_bound(method, x, delta=0.05).mean()) for x in costs]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    deltas = np.stack([upper_bound(method, costs[1], delta=delta) for delta in DELTAS])
    assert (np.diff(deltas, axis=0) <= 1e-12).all() and (deltas[0] > deltas[-1]).all()


@pytest.mark.parametrize("method", [*EXACT, "student"])
def test_samples_are_bounded_together_as_alone_and_any_range_scales(method):
    costs = (np.random.default_rng(8).random((2, 3, 25)) < 0.3).astype(float)
    together = upper_bound(method, costs, delta=0.1)
    assert together.shape == (2, 3)
    alone = [float(upper_bound(method, row, delta=0.1)) for row in costs.reshape(6, 25)]
    assert together.ravel() == pytest.approx(alone, rel=1e-12)
    scaled = upper_bound(method, 5 * costs - 2, delta=0.1, low=-2, high=3)
    assert scaled == pytest.approx(5 * together - 2)


@pytest.mark.parametrize("method", [name for name in BOUNDS if name != "betting"])
def test_counts_give_what_their_costs_give(method):
    n = 30
    costs = np.tril(np.ones((n + 1, n)), -1)
    counts = upper_bound_of_count(method, np.arange(n + 1), n, delta=0.05)
    assert counts == pytest.approx(upper_bound(method, costs, delta=0.05))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: upper_bound("wald", [0.0], delta=0.05), "unknown bound 'wald'"),
        (lambda: upper_bound("hoeffding", [], delta=0.05), "no costs"),
        (lambda: upper_bound("hoeffding", [1.5], delta=0.05), "range"),
        (lambda: upper_bound("student", [math.nan, 1], delta=0.05), "finite"),
        (lambda: upper_bound("hoeffding", [0.5], delta=0.5), "delta"),
        (lambda: upper_bound("hoeffding", [0.5], delta=0.0), "delta"),
        (lambda: upper_bound("hoeffding", [0.5], delta=0.1, low=1, high=1), "range"),
        (lambda: upper_bound("clopper_pearson", [0.5], delta=0.1), "needs costs that are 0 or 1"),
        (lambda: upper_bound_of_count("betting", 1, 3, delta=0.1), "of a count"),
        (lambda: upper_bound_of_count("hoeffding", 4, 3, delta=0.1), "do not fit"),
    ],
)
def test_bad_input_is_refused(call, what):
    with pytest.raises(ValueError, match=what):
        call()
