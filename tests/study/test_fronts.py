import numpy as np
import pytest

from trivet.study.fronts import fronts
from trivet.study.leg_values import leg_result
from trivet.study.legs import Term
from trivet.study.measurements import Measurement
from trivet.study.scores import score_tables

LEGS = {name: [Term(name, name, 1.0, name)] for name in ("helpful", "honest", "harmless")}


def _scores(system, **legs):
    return [
        Measurement(system, leg, leg, f"{leg}{i}", 1, f"{leg}{i}", None if value is None else float(value))
        for leg, values in legs.items()
        for i, value in enumerate(values)
    ]


def _fronts(rows, replicates=500, seed=0):
    systems = list(dict.fromkeys(row.system for row in rows))
    tables = score_tables(rows, systems)
    measured = {leg: terms for leg, terms in LEGS.items() if (leg, leg) in tables}
    results = [
        leg_result(leg, terms, tables, name, systems[0])
        for leg, terms in measured.items()
        for name in systems
    ]
    generator = np.random.default_rng(seed)
    return fronts(measured, results, tables, systems, systems[0], generator, replicates=replicates)


def _chances(front):
    return {place.system: place.probability for place in front.systems}


def _rate(share, n=60):
    return [i < share * n for i in range(n)]


def test_equal_systems_are_all_on_the_front_and_a_worse_one_is_not():
    same = {"helpful": _rate(0.6), "honest": _rate(0.5), "harmless": _rate(0.9)}
    worse = {"helpful": _rate(0.1), "honest": _rate(0.1), "harmless": _rate(0.1)}
    front, pairs = _fronts(_scores("a", **same) + _scores("b", **same) + _scores("c", **worse))
    assert _chances(front) == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert front.systems[2].dominated_by == ["a", "b"] and not front.systems[2].on_front
    assert front.hypervolume.value == pytest.approx(0.6 * 0.5 * 0.9)
    assert front.hypervolume.interval.low < 0.27 < front.hypervolume.interval.high
    assert front.reference_point == {"helpful": 0.0, "honest": 0.0, "harmless": 0.0}
    assert [pair.axes for pair in pairs] == [
        ["helpful", "honest"],
        ["helpful", "harmless"],
        ["honest", "harmless"],
    ]


def test_a_trade_off_keeps_both_on_the_front():
    rows = _scores("safe", helpful=_rate(0.3), harmless=_rate(0.95))
    rows += _scores("useful", helpful=_rate(0.8), harmless=_rate(0.5))
    front, pairs = _fronts(rows)
    assert front.axes == ["helpful", "harmless"] and pairs == []
    assert all(chance > 0.99 for chance in _chances(front).values())


def test_a_close_call_is_between():
    generator = np.random.default_rng(1)
    base = generator.random((2, 200)) < 0.5
    rows = _scores("a", helpful=base[0], harmless=base[1])
    # b differs from a on a few questions, slightly for the worse on both legs
    other = base.copy()
    for leg in range(2):
        down = np.flatnonzero(base[leg])[:11]
        up = np.flatnonzero(~base[leg])[:9]
        other[leg, down], other[leg, up] = False, True
    rows += _scores("b", helpful=other[0], harmless=other[1])
    front, _ = _fronts(rows, 2000)
    chances = _chances(front)
    assert 0.3 < chances["b"] < 0.95 and chances["a"] > chances["b"]


def test_the_same_seed_gives_the_same_front():
    rows = _scores("a", helpful=_rate(0.5), harmless=_rate(0.5))
    rows += _scores("b", helpful=_rate(0.45), harmless=_rate(0.55))
    assert _fronts(rows, seed=4) == _fronts(rows, seed=4)


def test_a_system_that_cannot_be_placed_is_named():
    rows = _scores("a", helpful=_rate(0.5), harmless=_rate(0.5))
    rows += _scores("b", helpful=_rate(0.5), harmless=[None] * 60)
    front, _ = _fronts(rows)
    assert list(front.excluded) == ["b"] and "harmless" in front.excluded["b"]
    assert list(_chances(front)) == ["a"]


def test_one_leg_is_no_front_and_a_leg_nobody_has_is_no_axis():
    assert _fronts(_scores("a", helpful=_rate(0.5))) == (None, [])
    rows = _scores("a", helpful=_rate(0.5), harmless=_rate(0.5), honest=[None] * 60)
    assert _fronts(rows)[0].axes == ["helpful", "harmless"]


def test_a_leg_without_bounds_has_no_hypervolume():
    rows = _scores("a", helpful=[3.0, 5.0, 2.0], harmless=_rate(0.5))
    front, _ = _fronts(rows)
    assert front.hypervolume.value is None and "bounds" in front.hypervolume.reason


def test_systems_that_never_fail_show_no_spread():
    front, _ = _fronts(_scores("a", helpful=_rate(1), harmless=_rate(1)))
    assert front.hypervolume.value == 1 and front.hypervolume.interval is None
    assert "do not vary" in front.hypervolume.reason


def test_questions_shared_by_two_legs_are_drawn_together():
    generator = np.random.default_rng(2)
    answers = generator.random(80) < 0.5
    apart = _scores("a", helpful=answers, harmless=answers)
    shared = [
        Measurement(
            row.system, row.evaluation, row.component, row.sample_id[-3:], 1, row.sample_id[-2:], row.value
        )
        for row in apart
    ]
    together, independent = _fronts(shared, 4000)[0], _fronts(apart, 4000)[0]
    # p² of one rate varies more than p·q of two independent ones
    assert together.hypervolume.standard_error > 1.2 * independent.hypervolume.standard_error


@pytest.mark.parametrize("clear", [True, False])
def test_the_probability_tells_a_real_front_from_chance(clear):
    generator = np.random.default_rng(7)
    inside = []
    for run in range(60):
        rows = _scores("best", helpful=generator.random(80) < 0.7, harmless=generator.random(80) < 0.7)
        rate = 0.4 if clear else 0.7
        rows += _scores("other", helpful=generator.random(80) < rate, harmless=generator.random(80) < rate)
        inside.append(_chances(_fronts(rows, 200, run)[0])["other"])
    assert np.mean(inside) < 0.02 if clear else 0.55 < np.mean(inside) < 0.95
