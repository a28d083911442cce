import numpy as np
import pytest

from trivet.statistics.agreement import Confusion
from trivet.statistics.proportions import clopper_pearson
from trivet.statistics.rogan_gladen import ErrorLimits, corrected_rate, corrected_upper_bound, error_limits
from trivet.statistics.upper_bounds import clopper_pearson_upper


def test_a_perfect_judge_changes_nothing():
    result = corrected_rate(0.3, 200, Confusion(500, 0, 500, 0))
    assert result.value == pytest.approx(0.3)
    assert result.interval.low < 0.3 < result.interval.high


def test_the_formula():
    # Se .8, Sp .9: (.24 + .9 - 1)/(.7) = .2
    result = corrected_rate(0.24, 400, Confusion(80, 20, 90, 10))
    assert result.value == pytest.approx(0.2)
    # a better measured judge and more answers narrow it
    wide = result.interval.high - result.interval.low
    narrow = corrected_rate(0.24, 4000, Confusion(800, 200, 900, 100)).interval
    assert narrow.high - narrow.low < wide / 2


def test_the_lang_reiczigel_interval_by_hand():
    z = 1.959963985
    p, size = (100 * 0.24 + z * z / 2) / (100 + z * z), 100 + z * z
    se, sp = 81 / 102, 91 / 102
    rate = (p + sp - 1) / (se + sp - 1)
    v_se, v_sp = se * (1 - se) / 102, sp * (1 - sp) / 102
    error = np.sqrt(p * (1 - p) / size + rate**2 * v_se + (1 - rate) ** 2 * v_sp) / (se + sp - 1)
    shift = 2 * z * z * (rate * v_se - (1 - rate) * v_sp)
    interval = corrected_rate(0.24, 100, Confusion(80, 20, 90, 10)).interval
    assert interval[:2] == pytest.approx((rate + shift - z * error, rate + shift + z * error))


def test_it_stays_within_0_and_1():
    result = corrected_rate(0.07, 100, Confusion(80, 20, 90, 10))
    assert result.value == 0 and result.interval.low == 0 and 0 < result.interval.high < 0.2


def test_a_calibration_that_contradicts_the_rate_is_named_and_gives_no_empty_interval():
    # one false alarm in ten was measured, and here the judge hardly ever raises one
    result = corrected_rate(0.02, 400, Confusion(800, 200, 900, 100))
    assert result.value is None and "does not hold for these answers" in result.reason


@pytest.mark.parametrize("table", [Confusion(5, 5, 5, 5), Confusion(6, 4, 7, 3), Confusion(3, 0, 3, 0)])
def test_a_weak_or_hardly_measured_judge_corrects_nothing(table):
    result = corrected_rate(0.4, 200, table)
    assert result.value is None and result.interval is None and "too weak" in result.reason


def test_a_judge_never_measured_says_so():
    assert "not measured" in corrected_rate(0.4, 200, Confusion(0, 0, 5, 5)).reason


@pytest.mark.parametrize(("rate", "se", "sp"), [(0.05, 0.9, 0.95), (0.3, 0.8, 0.9), (0.6, 0.85, 0.8)])
def test_coverage_with_the_calibration_s_own_uncertainty(rate, se, sp):
    generator = np.random.default_rng(8)
    runs, covered, naive = 2000, 0, 0
    seen = rate * se + (1 - rate) * (1 - sp)
    for _ in range(runs):
        tp, tn = generator.binomial(100, se), generator.binomial(150, sp)
        p = generator.binomial(250, seen) / 250
        interval = corrected_rate(p, 250, Confusion(tp, 100 - tp, tn, 150 - tn)).interval
        covered += interval.low <= rate <= interval.high
        naive += abs(p - rate) <= 1.96 * np.sqrt(p * (1 - p) / 250)
    assert covered / runs > 0.935
    assert naive < covered


def test_impossible_rates_are_refused():
    with pytest.raises(ValueError, match="impossible"):
        corrected_rate(1.2, 10, Confusion(9, 1, 9, 1))


def test_the_upper_bound_is_the_formula_with_the_limits_on_their_careful_sides():
    counts = Confusion(90, 10, 190, 10)
    limits = error_limits(counts, delta=0.02)
    interval = clopper_pearson(90, 100, level=0.96), clopper_pearson(190, 200, level=0.96)
    assert limits == pytest.approx((interval[0].low, interval[1].high), abs=1e-12)
    bound = float(corrected_upper_bound(0.2, limits))
    assert bound == pytest.approx((0.2 + limits[1] - 1) / (limits[0] + limits[1] - 1))
    for careless in (
        limits._replace(sensitivity_low=interval[0].high),
        limits._replace(specificity_high=interval[1].low),
    ):
        assert float(corrected_upper_bound(0.2, careless)) < bound


def test_the_upper_bound_knows_dependent_labels():
    counts = Confusion(141, 5, 127, 15)
    alone, clustered = error_limits(counts, delta=0.02), error_limits(counts, delta=0.02, clusters=144)
    assert clustered.sensitivity_low < alone.sensitivity_low
    assert clustered.specificity_high > alone.specificity_high
    halved = Confusion(70, 3, 64, 7)  # each rounded to the careful side
    assert clustered == error_limits(halved, delta=0.02)
    assert error_limits(counts, delta=0.02, clusters=999) == alone


def test_a_judge_that_was_hardly_measured_bounds_nothing():
    assert error_limits(Confusion(0, 0, 50, 0), delta=0.02) == (0.0, 1.0)
    for counts in (Confusion(0, 0, 50, 0), Confusion(1, 5, 1, 9)):
        rates = corrected_upper_bound([0.01, 0.2, 1.0], error_limits(counts, delta=0.02))
        assert (rates == 1).all()


def test_fewer_events_than_false_positives_explain_leave_the_specificity_out():
    limits = ErrorLimits(0.8, 0.9)
    assert float(corrected_upper_bound(0.05, limits)) == pytest.approx(0.05 / 0.8)
    assert float(corrected_upper_bound(0.1, limits)) == pytest.approx(0.0, abs=1e-12)
    assert float(corrected_upper_bound(0.9, limits)) == 1.0


@pytest.mark.parametrize("truth", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("error", [(0.95, 0.97), (0.8, 0.9), (0.99, 0.6), (0.6, 1.0)])
def test_the_upper_bound_covers_the_true_rate(truth, error):
    """Answers, positives and negatives are drawn anew in each trial, as the calibration was."""
    rng, delta, trials = np.random.default_rng(0), 0.1, 1500
    sensitivity, specificity = error
    seen = truth * sensitivity + (1 - truth) * (1 - specificity)
    n, n_se, n_sp = 200, 60, 80
    rates = clopper_pearson_upper(rng.binomial(n, seen, trials), n, delta=delta / 3)
    found, left = rng.binomial(n_se, sensitivity, trials), rng.binomial(n_sp, specificity, trials)
    wrong = 0
    for rate, hits, spared in zip(rates, found, left, strict=True):
        limits = error_limits(
            Confusion(int(hits), int(n_se - hits), int(spared), int(n_sp - spared)), delta=delta / 3
        )
        wrong += float(corrected_upper_bound(rate, limits)) < truth
    assert wrong / trials <= delta
