import math

import numpy as np
import pytest
from scipy import stats

from trivet.errors import DataError
from trivet.statistics import mcnemar
from trivet.statistics.means import cluster_codes, cluster_sums, clustered_standard_error
from trivet.statistics.paired import PairedPart, pair, paired_difference


def _part(differences, clusters=None, coefficient=1.0, bounded=True):
    d = np.asarray(differences, dtype=float)
    codes = np.arange(len(d)) if clusters is None else np.asarray(clusters)
    return PairedPart(d, np.ones(len(d)), codes, coefficient, bounded)


def test_pairing_refuses_different_ids_and_counts_what_it_drops():
    a, b = {"q1": 1.0, "q2": 0.0, "q3": 1.0}, {"q3": 0.0, "q2": 1.0, "q4": 1.0}
    with pytest.raises(DataError, match="'q1'"):
        pair(a, b)
    paired = pair(a, b, allow_missing=True)
    assert paired.ids == ["q2", "q3"] and paired.dropped == 2
    assert paired.a.tolist() == [0.0, 1.0] and paired.b.tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match="no question is in both"):
        pair({"x": 1.0}, {"y": 1.0}, allow_missing=True)


def test_pairing_pays_when_answers_correlate():
    generator = np.random.default_rng(4)
    skill = generator.normal(size=(3000, 1))
    for correlation, smaller in ((0.5, True), (0.0, False)):
        noise = generator.normal(size=(3000, 2))
        scores = math.sqrt(correlation) * skill + math.sqrt(1 - correlation) * noise
        paired = paired_difference([_part(scores[:, 0] - scores[:, 1], bounded=False)]).standard_error
        unpaired = math.sqrt((scores.var(axis=0, ddof=1) / 3000).sum())
        assert (paired < 0.8 * unpaired) if smaller else paired == pytest.approx(unpaired, rel=0.05)


def test_many_differences_give_the_clustered_standard_error():
    generator = np.random.default_rng(5)
    clusters = generator.integers(150, size=600)
    d = generator.normal(0.1, 1, size=600)
    result = paired_difference([_part(d, clusters, bounded=False)])
    expected = clustered_standard_error(cluster_sums(d, cluster_codes(clusters)))
    assert result.value == pytest.approx(d.mean())
    assert result.standard_error == pytest.approx(expected, rel=0.02)
    assert result.clusters == len(set(clusters.tolist()))


@pytest.mark.parametrize(("b", "c"), [(0, 0), (4, 0), (5, 0), (6, 0), (8, 2), (12, 5), (30, 20)])
def test_binary_answers_give_bonett_and_price_and_stay_near_mcnemar(b, c):
    n = 100
    d = np.concatenate([np.ones(b), -np.ones(c), np.zeros(n - b - c)])
    result = paired_difference([_part(d)])
    p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)
    assert result.standard_error == pytest.approx(math.sqrt((p + q - (p - q) ** 2) / (n + 2)))
    assert result.interval.low < result.value < result.interval.high
    exact, mid = mcnemar.exact(b, c), mcnemar.mid_p(b, c)
    assert min(exact, mid) * 0.8 < result.p < max(exact, mid) * 1.6 or result.p == exact == 1


def test_no_difference_at_all_is_not_sold_as_certainty():
    result = paired_difference([_part(np.zeros(50))])
    assert result.value == 0 and result.p == 1
    assert result.interval.high == -result.interval.low > 0.03
    assert "no bounds" in paired_difference([_part(np.zeros(50), bounded=False)]).reason


def test_too_few_units_give_a_reason():
    assert paired_difference([_part([0.5])]).interval is None
    assert "one cluster" in paired_difference([_part([0.5, 0.1], [7, 7])]).reason
    empty = paired_difference([_part([1.0, 0.0]), _part([])])
    assert empty.value is None and empty.p is None and "no question" in empty.reason


def test_shared_clusters_of_two_parts_are_one_unit():
    generator = np.random.default_rng(6)
    d = generator.normal(size=400)
    same = paired_difference([_part(d, None, 0.5, False), _part(d, None, 0.5, False)])
    apart = paired_difference([_part(d, None, 0.5, False), _part(d, np.arange(400) + 400, 0.5, False)])
    assert same.standard_error == pytest.approx(math.sqrt(2) * apart.standard_error, rel=0.01)
    assert same.degrees_of_freedom == pytest.approx(399)
    assert apart.degrees_of_freedom == pytest.approx(2 * 399)


def test_weights_choose_the_questions_that_count():
    d = np.array([1.0, -1.0, 1.0, 0.0, 1.0, 0.0])
    weights = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    weighted = paired_difference([PairedPart(d, weights, np.arange(6))])
    assert weighted == paired_difference([_part(d[weights > 0])])


@pytest.mark.parametrize(
    ("n", "rate", "flip", "epochs"),
    [(60, 0.9, 0.05, 1), (150, 0.5, 0.4, 1), (40, 0.95, 0.3, 3), (20, 0.7, 0.5, 1)],
)
def test_size_under_the_null(n, rate, flip, epochs):
    generator = np.random.default_rng(n)
    runs, p = 2000, []
    for _ in range(runs):
        base = generator.random(n) < rate
        a, b = (
            np.where(generator.random((epochs, n)) < flip, generator.random((epochs, n)) < rate, base).mean(0)
            for _ in range(2)
        )
        p.append(paired_difference([_part(a - b)]).p)
    for size in (0.01, 0.05, 0.2):
        assert np.mean(np.array(p) <= size) <= size + 3 * math.sqrt(size * (1 - size) / runs)


def test_p_is_uniform_under_the_null_where_scores_are_continuous():
    generator = np.random.default_rng(1)
    p = [paired_difference([_part(generator.uniform(-0.5, 0.5, size=80))]).p for _ in range(2000)]
    assert stats.kstest(p, "uniform").pvalue > 0.001
