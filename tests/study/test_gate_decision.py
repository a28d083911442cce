"""The decision of a safety test: calibration by simulation, limits, judges with a known error."""

import math

import numpy as np
import pytest

from trivet.statistics.agreement import Confusion
from trivet.statistics.rogan_gladen import corrected_upper_bound, error_limits
from trivet.statistics.upper_bounds import BOUNDS, clopper_pearson_upper
from trivet.study.gate_decision import Calibration, SafetyTest, decide

TRIALS = 400


def passing(costs, test):
    return np.array([decide(row, test).passed for row in costs])


@pytest.mark.parametrize("method", [name for name, bound in BOUNDS.items() if bound.exact])
@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_a_system_at_the_limit_passes_no_more_often_than_delta(method, delta):
    """Card 08, check 8, for every exact bound and for the whole decision; a rate just above the limit."""
    rng = np.random.default_rng(0)
    rare = (rng.random((TRIALS, 120)) < 0.1).astype(float)
    kinds = [rare] if method == "clopper_pearson" else [rare, rng.beta(0.5, 4.5, (TRIALS, 120))]
    for costs in kinds:
        rate = passing(costs, SafetyTest(method, 0.1 - 1e-9, delta)).mean()
        assert rate <= delta + 3 * math.sqrt(delta * (1 - delta) / TRIALS)


def test_safer_systems_pass():
    rng = np.random.default_rng(1)
    test = SafetyTest("clopper_pearson", 0.1, 0.05)
    n = test.required().half_limit
    costs = [(rng.random((TRIALS, n)) < rate).astype(float) for rate in (0.01, 0.05, 0.2)]
    low, half, high = (passing(rows, test).mean() for rows in costs)
    assert low > 0.99 and half == pytest.approx(0.8, abs=0.07) and high == 0


# Card 08, check 10.
@pytest.mark.parametrize("method", [name for name, bound in BOUNDS.items() if bound.exact])
def test_impossible_and_trivial_limits(method):
    rng = np.random.default_rng(2)
    costs = (rng.random((50, 80)) < 0.5).astype(float)
    assert not passing(costs, SafetyTest(method, 0.0, 0.05)).any()
    assert not passing(np.zeros((1, 80)), SafetyTest(method, 0.0, 0.05)).any()
    assert passing(costs, SafetyTest(method, 1.0, 0.05)).all()
    # a limit above the maximum of costs that lie in [0, 0.2], once the margin fits
    if method != "clopper_pearson":
        low = 0.2 * rng.random((50, 400))
        assert passing(low, SafetyTest(method, 0.3, 0.05)).all()


# Card 08, check 11: the first of ten unsafe candidates that passes on one set of prompts.
def test_ten_candidates_break_delta_and_a_tenth_of_it_keeps_it():
    rng, delta = np.random.default_rng(3), 0.1
    # A rate at which the test of one candidate has a chance near delta: P(k = 0) = 0.9^22 = 0.098.
    candidates = (rng.random((TRIALS, 10, 22)) < 0.1).astype(float)
    naive, split = SafetyTest("clopper_pearson", 0.1, delta), SafetyTest("clopper_pearson", 0.1, delta / 10)
    each = np.array([passing(trial, naive) for trial in candidates])
    assert each[:, 0].mean() <= delta + 3 * math.sqrt(delta * (1 - delta) / TRIALS)
    assert each.any(axis=1).mean() > 0.5  # towards 1 - 0.9^10 = 0.65
    assert np.array([passing(trial, split).any() for trial in candidates]).mean() <= delta


def test_a_calibrated_judges_bound_is_the_issues_formula():
    counts = Confusion(90, 10, 190, 10)
    test = SafetyTest("clopper_pearson", 0.35, 0.06, Calibration(counts, counts.n, "labels"))
    costs = np.array([1.0] * 40 + [0.0] * 160)
    decision = decide(costs, test)
    limits = error_limits(counts, delta=0.02)
    seen = float(clopper_pearson_upper(40, 200, delta=0.02))
    assert decision.seen == pytest.approx(seen)
    sensitivity, specificity = limits
    assert decision.bound == pytest.approx((seen + specificity - 1) / (sensitivity + specificity - 1))
    assert decision.passed and decision.reason is None


@pytest.mark.parametrize("error", [(0.9, 0.95), (0.7, 1.0)])
def test_a_system_at_the_limit_passes_no_more_often_than_delta_through_a_judge(error):
    rng, delta, limit = np.random.default_rng(4), 0.1, 0.2
    sensitivity, specificity = error
    passed = 0
    for _ in range(TRIALS):
        harm = rng.random(150) < limit
        verdicts = np.where(harm, rng.random(150) < sensitivity, rng.random(150) > specificity)
        found, left = rng.binomial(80, sensitivity), rng.binomial(80, specificity)
        counts = Confusion(int(found), int(80 - found), int(left), int(80 - left))
        test = SafetyTest("clopper_pearson", limit - 1e-9, delta, Calibration(counts, counts.n, "labels"))
        passed += decide(verdicts.astype(float), test).passed
    assert passed / TRIALS <= delta
    # Without the correction, a judge that overlooks harm lets it pass far more often.
    if sensitivity < 0.8:
        seen = rng.random((TRIALS, 150)) < limit * sensitivity
        assert passing(seen.astype(float), SafetyTest("clopper_pearson", limit, delta)).mean() > 2 * delta


def test_what_is_remarkable_is_said():
    weak = Calibration(Confusion(1, 3, 2, 6), 12, "labels")
    assert "too few" in decide(np.zeros(50), SafetyTest("clopper_pearson", 0.3, 0.05, weak)).reason
    wrong = Calibration(Confusion(95, 5, 70, 30), 200, "labels")
    decision = decide(np.zeros(200), SafetyTest("clopper_pearson", 0.3, 0.05, wrong))
    assert "specificity does not hold" in decision.reason
    low = error_limits(wrong.counts, delta=0.05 / 3).sensitivity_low
    assert decision.bound == pytest.approx(decision.seen / low)


def test_students_bound_needs_spread():
    test = SafetyTest("student", 0.5, 0.05)
    for costs in (np.zeros(100), np.ones(100), [0.2]):
        decision = decide(costs, test)
        assert not decision.passed and decision.bound is None and "without spread" in decision.reason
    assert decide([0.1, 0.2] * 20, test).passed


@pytest.mark.parametrize("method", [name for name in BOUNDS if name != "student"])
@pytest.mark.parametrize("limit", [0.02, 0.2])
def test_whether_a_test_can_pass_is_known_beforehand(method, limit):
    test = SafetyTest(method, limit, 0.05)
    for n in (1, 10, 100, 1000):
        assert test.can_pass(n) == decide(np.zeros(n), test).passed
    judge = Calibration(Confusion(95, 5, 95, 5), 200, "labels")
    through = SafetyTest("clopper_pearson", limit, 0.05, judge)
    counts = np.arange(101)
    bounds = corrected_upper_bound(
        clopper_pearson_upper(counts, 100, delta=through.rate_delta),
        error_limits(judge.counts, delta=0.05 / 3),
    )
    assert through.can_pass(100) == bool((bounds <= limit).any())
