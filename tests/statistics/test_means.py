import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspect_ai.scorer import SampleScore, Score, stderr

from trivet.statistics.means import (
    cluster_codes,
    cluster_sums,
    clustered_mean,
    clustered_standard_error,
)
from trivet.statistics.proportions import wilson


def _standard_error(values, clusters):
    values = np.asarray(values, dtype=float)
    return clustered_standard_error(cluster_sums(values, cluster_codes(clusters)))


def _inspect_error(values, clusters):
    scores = [
        SampleScore(score=Score(value=float(v)), sample_metadata={"key": str(c)})
        for v, c in zip(values, clusters, strict=True)
    ]
    return stderr(cluster="key")(scores)


@pytest.mark.parametrize("seed", range(5))
def test_the_standard_error_is_inspect_s(seed):
    generator = np.random.default_rng(seed)
    values, clusters = generator.random(60), generator.integers(12, size=60)
    assert _standard_error(values, clusters) == pytest.approx(_inspect_error(values, clusters), abs=1e-12)


def test_equal_clusters_give_the_error_of_the_cluster_means():
    generator = np.random.default_rng(1)
    values = generator.random((9, 4))
    expected = values.mean(axis=1).std(ddof=1) / math.sqrt(9)
    assert _standard_error(values.ravel(), np.repeat(np.arange(9), 4)) == pytest.approx(expected, abs=1e-15)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_single_questions_give_the_plain_error(values):
    expected = np.std(values, ddof=1) / math.sqrt(len(values))
    assert _standard_error(values, range(len(values))) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.booleans(), min_size=2, max_size=200))
def test_independent_rates_get_wilson_s_own_interval(answers):
    ours = clustered_mean(np.array(answers, dtype=float))
    expected = wilson(sum(answers), len(answers))
    assert ours.interval[:2] == pytest.approx(expected[:2], abs=1e-9)


def test_clusters_of_copies_count_once():
    answers = np.array([1.0, 0, 1, 1, 0, 1, 1, 1, 0, 1] * 4)
    once = clustered_mean(answers)
    copied = clustered_mean(np.repeat(answers, 5), np.repeat(np.arange(40), 5))
    assert copied.standard_error == pytest.approx(once.standard_error)
    assert copied.clusters == 40 and copied.n == 200
    # Student's t in place of z, since the effective size is estimated
    assert copied.interval.low == pytest.approx(once.interval.low, abs=0.01)
    assert copied.interval.low <= once.interval.low


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_equal_scores_never_give_a_zero_width(value, n):
    result = clustered_mean(np.full(n, value))
    assert result.value == value
    assert result.interval.high - result.interval.low > 1 / (n + 4)
    assert 0 <= result.interval.low <= value <= result.interval.high <= 1


def test_scores_without_bounds_get_the_t_interval():
    values = np.array([3.0, 4.5, 2.0, 8.0])
    result = clustered_mean(values, bounds=None)
    half = 3.182446305 * values.std(ddof=1) / 2
    assert result.interval[:2] == pytest.approx((values.mean() - half, values.mean() + half))
    assert clustered_mean([2.0, 2.0], bounds=None).interval is None
    assert "no bounds" in clustered_mean([2.0, 2.0], bounds=None).reason
    assert "one question" in clustered_mean([2.0], bounds=None).reason


def test_other_bounds_are_scaled():
    unit = clustered_mean([0.1, 0.4, 0.9, 0.6])
    scaled = clustered_mean([1.0, 4.0, 9.0, 6.0], bounds=(0, 10))
    assert scaled.interval[:2] == pytest.approx(tuple(10 * x for x in unit.interval[:2]))


def test_nothing_to_average_says_so():
    assert clustered_mean([]).value is None
    assert clustered_mean([1.0], weights=[0.0]).reason == "there are no scores"


@pytest.mark.parametrize(
    "arguments",
    [
        {"values": [float("nan")]},
        {"values": [2.0]},
        {"values": [1.0], "weights": [-1.0]},
        {"values": [1.0], "clusters": [1, 2]},
        {"values": [1.0], "weights": [1.0, 2.0]},
    ],
)
def test_malformed_scores_are_refused(arguments):
    with pytest.raises(ValueError):
        clustered_mean(**arguments)


def _normal_clusters(generator, clusters, size=10, correlation=0.5):
    shared = generator.normal(size=(clusters, 1)) * math.sqrt(correlation)
    return shared + generator.normal(size=(clusters, size)) * math.sqrt(1 - correlation)


@pytest.mark.parametrize("clusters", [10, 40])
def test_coverage_with_correlated_questions(clusters):
    generator = np.random.default_rng(clusters)
    runs, covered, naive = 1000, 0, 0
    names = np.repeat(np.arange(clusters), 10)
    for _ in range(runs):
        x = _normal_clusters(generator, clusters).ravel()
        interval = clustered_mean(x, names, bounds=None).interval
        covered += interval.low <= 0 <= interval.high
        naive += abs(x.mean()) <= 1.96 * x.std(ddof=1) / math.sqrt(len(x))
    assert naive / runs < 0.65
    assert covered / runs > 0.93


@pytest.mark.parametrize(("rate", "clusters", "epochs"), [(0.97, 60, 3), (0.6, 25, 4), (0.1, 120, 2)])
def test_coverage_of_rates_with_several_answers_a_question(rate, clusters, epochs):
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(1000):
        chance = generator.beta(2 * rate, 2 * (1 - rate), size=clusters)
        x = generator.binomial(epochs, chance) / epochs
        interval = clustered_mean(x).interval
        covered += interval.low <= rate <= interval.high
    assert covered / 1000 > 0.925
