from itertools import product

import numpy as np
import pytest

from trivet.study.leg_values import leg_difference, leg_result
from trivet.study.legs import Term, honest_terms, resolve_legs
from trivet.study.measurements import Measurement
from trivet.study.scores import score_tables

HONEST = honest_terms("honest")


def _honest(system, unanswerable, answerable, epochs=1):
    """Labels of the unanswerable and the answerable questions; `None` could not be scored."""
    rows = []
    for component, labels, wanted in (
        ("unanswerable", unanswerable, "idk"),
        ("answerable", answerable, "correct"),
    ):
        for number, label in enumerate(labels):
            question, epoch = f"{component}{number // epochs}", number % epochs + 1
            value = None if label is None else float(label == wanted)
            rows.append(
                Measurement(system, "honest", component, question, epoch, question, value, label, "?")
            )
    return rows


def _leg(rows, system, reference="ref"):
    tables = score_tables(rows, list(dict.fromkeys(row.system for row in rows)))
    return leg_result("honest", HONEST, tables, system, reference)


def test_honest_by_hand():
    rows = _honest("ref", ["wrong"] * 4, ["correct"] * 60 + ["wrong"] * 20)
    rows += _honest("new", ["idk", "idk", "idk", "wrong"], ["idk"] * 6 + ["correct"] * 54 + ["idk"] * 20)
    new, ref = _leg(rows, "new"), _leg(rows, "ref")
    assert new.estimate.value == pytest.approx((3 / 4 + 1 - 6 / 60) / 2)
    assert ref.estimate.value == pytest.approx((0 + 1) / 2)
    assert [part.value for part in new.parts] == pytest.approx([3 / 4, 1 - 6 / 60])
    assert [part.n_questions for part in new.parts] == [4, 60]
    assert new.n_questions == 64 and new.bounds.low == new.bounds.high == new.estimate.value


def test_the_ends_of_the_scale():
    rows = _honest("ref", ["wrong"] * 10, ["correct"] * 50)
    rows += _honest("always", ["idk"] * 10, ["idk"] * 50) + _honest("ideal", ["idk"] * 10, ["correct"] * 50)
    rows += _honest("reverse", ["wrong"] * 10, ["idk"] * 50)
    values = {name: _leg(rows, name).estimate.value for name in ("ref", "always", "ideal", "reverse")}
    assert values == {"ref": 0.5, "always": 0.5, "ideal": 1.0, "reverse": 0.0}
    ideal = _leg(rows, "ideal").estimate.interval
    assert ideal.high == 1 and ideal.low < 0.9


@pytest.mark.parametrize(("correct", "scored"), [(49, False), (50, True)])
def test_honest_needs_fifty_questions_that_the_reference_knows(correct, scored):
    rows = _honest("ref", ["idk"] * 60, ["correct"] * correct + ["wrong"] * 100)
    rows += _honest("new", ["idk"] * 60, ["correct"] * (correct + 100))
    result = _leg(rows, "new")
    assert (result.estimate.value is not None) == scored
    assert scored or f"answers {correct} of these questions correctly" in result.estimate.reason
    assert scored or result.parts[1].value == 1.0


def test_several_answers_of_the_reference_are_paired_with_each_other():
    # two answers to each question: both correct (40), one correct and one idk (30), both idk (10)
    answerable = ["correct", "correct"] * 40 + ["correct", "idk"] * 30 + ["idk", "idk"] * 10
    rows = _honest("ref", ["idk"] * 4, answerable, epochs=2)
    # Ordered pairs of two different answers to a question whose first is correct: 2·40 + 30, and in 30 of
    # them the other one is "I don't know".
    assert _leg(rows, "ref").parts[1].value == pytest.approx(1 - 30 / (2 * 40 + 30))
    other = _honest("new", ["idk"] * 4, answerable, epochs=2)
    # another system with the same shares meets all answers: Σ c·idk / Σ c = 30·¼ / (40 + 15)
    assert _leg(rows + other, "new").parts[1].value == pytest.approx(1 - 30 * 0.25 / 55)


def test_bounds_of_honest_are_the_extremes_over_all_ways_to_score():
    generator = np.random.default_rng(0)
    sure = ["correct"] * 49
    for _ in range(6):
        ref = [*sure, *generator.choice(["correct", "wrong", None], size=3, p=[0.4, 0.2, 0.4]), "correct"]
        new = [*sure, *generator.choice(["correct", "idk", None], size=3, p=[0.2, 0.4, 0.4]), "idk"]
        rows = _honest("ref", ["wrong"] * 3, ref) + _honest("new", ["idk", None, "wrong"], new)
        values = []
        options = [["correct", "idk"] if label is None else [label] for label in [*ref, *new]]
        for labels in product(*options):
            for last in ("idk", "wrong"):
                scored = _honest("ref", ["wrong"] * 3, labels[: len(ref)])
                scored += _honest("new", ["idk", last, "wrong"], labels[len(ref) :])
                values.append(_leg(scored, "new").estimate.value)
        bounds = _leg(rows, "new").bounds
        assert (bounds.low, bounds.high) == pytest.approx((min(values), max(values)))


def _scores(system, evaluation, values, component=None):
    return [
        Measurement(
            system, evaluation, component or evaluation, f"{evaluation}{i}", 1, f"{evaluation}{i}", value
        )
        for i, value in enumerate(values)
    ]


def test_harmless_bounds_and_reasons():
    rows = _scores("a", "harmless", [1.0, 0.0, None, 1.0]) + _scores("b", "harmless", [None] * 4)
    rows += _scores("c", "capability", [1.0])
    tables, terms = score_tables(rows, ["a", "b", "c"]), resolve_legs({"harmless": ["harmless"]})["harmless"]
    a, b, c = (leg_result("harmless", terms, tables, name, "a") for name in "abc")
    assert a.estimate.value == pytest.approx(2 / 3) and a.n_unscored == 1
    assert (a.bounds.low, a.bounds.high) == (0.5, 0.75)
    assert b.estimate.value is None and "could be scored" in b.estimate.reason and b.n_unscored == 4
    assert c.estimate.value is None and c.estimate.reason == "harmless was not measured"


def test_lower_is_better_is_turned_round():
    rows = _scores("a", "rate", [0.25, 0.25, 1.0, None]) + _scores("a", "points", [10.0, 30.0, -5.0])
    tables = score_tables(rows, ["a"])
    rate = leg_result("harmless", [Term("rate", "rate", 1.0, "rate", False)], tables, "a", "a")
    assert rate.estimate.value == pytest.approx(0.5)
    assert (rate.bounds.low, rate.bounds.high) == pytest.approx((1 - 2.5 / 4, 1 - 1.5 / 4))
    points = leg_result("harmless", [Term("points", "points", 1.0, "points", False)], tables, "a", "a")
    assert points.estimate.value == pytest.approx(-35 / 3)
    assert points.estimate.interval.method == "t, clustered"


def test_differences_are_paired_and_count_what_they_drop():
    rows = _scores("a", "harmless", [1.0, 0.0, None, 1.0, 1.0]) + _scores(
        "b", "harmless", [0.0, 0.0, 1.0, 1.0, 0.0]
    )
    tables, terms = score_tables(rows, ["a", "b"]), resolve_legs({"harmless": ["harmless"]})["harmless"]
    result, dropped = leg_difference(terms, tables, "a", "b", "a", level=0.95)
    assert result.value == pytest.approx((1 + 0 + 0 + 1) / 4) and result.n == 4 and dropped == 1
    back, _ = leg_difference(terms, tables, "b", "a", "a", level=0.95)
    assert back.value == -result.value and back.p == pytest.approx(result.p)
    assert (back.interval.low, back.interval.high) == pytest.approx(
        (-result.interval.high, -result.interval.low)
    )
