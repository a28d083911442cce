import math

import numpy as np
import pytest

from trivet.statistics.combination import Part, combine
from trivet.statistics.means import clustered_mean
from trivet.statistics.proportions import newcombe


def _part(values, start=0, coefficient=1.0, bounds=(0.0, 1.0)):
    values = np.asarray(values, dtype=float)
    return Part(values, np.ones(len(values)), np.arange(start, start + len(values)), coefficient, bounds)


def test_one_part_is_its_own_mean():
    values = np.array([1.0, 0, 1, 1, 0, 1])
    assert combine([_part(values)]).interval == clustered_mean(values).interval


def test_independent_parts_combine_their_errors():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=50), generator.normal(size=30)
    result = combine([_part(a, 0, 0.5, None), _part(b, 100, 0.5, None)])
    errors = [x.std(ddof=1) / math.sqrt(len(x)) for x in (a, b)]
    assert result.value == pytest.approx((a.mean() + b.mean()) / 2)
    assert result.standard_error == pytest.approx(math.hypot(*errors) / 2)
    assert (result.n, result.clusters) == (80, 80)


def test_a_difference_of_two_rates_is_newcombe_s():
    a, b = np.repeat([1.0, 0.0], [56, 14]), np.repeat([1.0, 0.0], [48, 32])
    result = combine([_part(a, 0, 1.0), _part(b, 100, -1.0)])
    assert result.interval[:2] == pytest.approx(newcombe(56, 70, 48, 80)[:2])


def test_shared_clusters_add_their_correlation():
    generator = np.random.default_rng(3)
    a = generator.normal(size=200)
    same = [_part(a, 0, 0.5, None), _part(a, 0, 0.5, None)]
    apart = [_part(a, 0, 0.5, None), _part(a, 500, 0.5, None)]
    plain = a.std(ddof=1) / math.sqrt(200)
    assert combine(same).standard_error == pytest.approx(plain)  # the mean of a and a is a
    assert combine(apart).standard_error == pytest.approx(plain / math.sqrt(2))
    assert combine(same).clusters == 200


def test_parts_at_0_and_1_keep_a_width():
    result = combine([_part(np.zeros(40), 0, 0.5), _part(np.ones(60), 100, 0.5)])
    assert result.value == 0.5
    assert 0.3 < result.interval.low < 0.48 and 0.52 < result.interval.high < 0.7


def test_a_part_without_scores_or_interval_is_named():
    assert combine([_part([1.0], 0, 0.5), _part([], 0, 0.5)]).reason == "a part has no scores"
    lone = combine([_part([1.0, 3.0], 0, 0.5, None), _part([2.0], 5, 0.5, None)])
    assert lone.interval is None and "one question" in lone.reason


@pytest.mark.parametrize("rates", [(0.9, 0.97, 0.5), (0.5, 0.3, 0.6), (1.0, 0.98, 0.02)])
def test_coverage_of_a_mean_of_three_rates(rates):
    generator = np.random.default_rng(17)
    sizes, runs, covered = (60, 90, 120), 800, 0
    for _ in range(runs):
        parts = [
            _part(generator.random(n) < rate, 1000 * k, 1 / 3)
            for k, (n, rate) in enumerate(zip(sizes, rates, strict=True))
        ]
        interval = combine(parts).interval
        covered += interval.low <= sum(rates) / 3 <= interval.high
    assert covered / runs > 0.93
