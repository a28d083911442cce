import pytest

from trivet.errors import StudyError
from trivet.study.diff import diff_studies
from trivet.study.results import (
    Environment,
    Estimate,
    EvaluationInfo,
    Interval,
    LegResult,
    StudyResults,
    SystemInfo,
)


def _study(name, legs, *, hash_="1", tokens=64, version="1.0"):
    return StudyResults(
        reference="base",
        study=name,
        seed=0,
        created="2026-01-01",
        environment=Environment(versions={"torch": version}),
        systems=[SystemInfo(name=s, identity=f"{s}@{hash_}") for s in dict.fromkeys(s for s, _ in legs)],
        evaluations=[EvaluationInfo(name="helpful", n_prompts=10, max_tokens=tokens)],
        legs=[LegResult(system=s, leg=leg, estimate=estimate) for (s, leg), estimate in legs.items()],
    )


def _estimate(value, half=0.05):
    if value is None:
        return Estimate(value=None, reason="could not score")
    interval = Interval(low=value - half, high=value + half, level=0.95, method="t") if half else None
    return Estimate(value=value, interval=interval)


@pytest.mark.parametrize(
    ("before", "after", "change", "fails"),
    [
        (0.60, 0.60, "within", False),
        (0.60, 0.551, "within", False),
        (0.60, 0.549, "fell", True),
        (0.60, 0.651, "rose", False),
        (0.60, None, "lost", True),
        (None, 0.60, "gained", False),
        (None, None, "not scored", False),
    ],
)
def test_a_leg_falls_when_it_is_beyond_the_earlier_interval(before, after, change, fails):
    key = ("base", "helpful")
    found = diff_studies(_study("a", {key: _estimate(before)}), _study("b", {key: _estimate(after)}))
    assert [entry.change for entry in found.changes] == [change]
    assert bool(found.fell) == fails


def test_without_an_interval_any_fall_counts():
    key = ("base", "helpful")
    found = diff_studies(_study("a", {key: _estimate(0.5, 0)}), _study("b", {key: _estimate(0.49, 0)}))
    assert found.fell and found.changes[0].difference.interval is None


def test_the_change_has_an_interval():
    key = ("base", "helpful")
    found = diff_studies(_study("a", {key: _estimate(0.5, 0.03)}), _study("b", {key: _estimate(0.6, 0.04)}))
    difference = found.changes[0].difference
    assert difference.value == pytest.approx(0.1)
    assert (difference.interval.low, difference.interval.high) == pytest.approx((0.05, 0.15))


def test_a_leg_that_is_no_longer_measured_is_lost():
    before = _study("a", {("base", "helpful"): _estimate(0.5), ("base", "honest"): _estimate(0.5)})
    found = diff_studies(before, _study("b", {("base", "helpful"): _estimate(0.5)}))
    assert [(entry.leg, entry.later.reason) for entry in found.fell] == [("honest", "not measured")]


def test_systems_of_one_study_only_and_changed_conditions_are_named():
    before = _study("a", {("base", "helpful"): _estimate(0.5), ("old", "helpful"): _estimate(0.5)})
    legs = {("base", "helpful"): _estimate(0.5), ("new", "helpful"): _estimate(0.5)}
    found = diff_studies(before, _study("b", legs, hash_="2", tokens=32, version="2.0"))
    assert (found.only_earlier, found.only_later) == (["old"], ["new"])
    assert found.notes == [
        "evaluation helpful changed: max_tokens",
        "system base changed: base@1 → base@2",
        "versions changed: torch 1.0 → 2.0",
    ]


def test_a_study_against_itself_is_within_and_round_trips():
    study = _study("a", {("base", "helpful"): _estimate(0.5)})
    found = diff_studies(study, study)
    assert not found.fell and found.notes == []
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_studies_without_a_common_system_are_refused():
    with pytest.raises(StudyError, match="no system is in both"):
        diff_studies(
            _study("a", {("x", "helpful"): _estimate(0.5)}), _study("b", {("y", "helpful"): _estimate(0.5)})
        )
