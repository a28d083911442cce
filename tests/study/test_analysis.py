"""Statistical claims are tested through `analyse` itself, on simulated systems whose rates are known."""

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import StudyError
from trivet.study.analysis import analyse
from trivet.study.measurements import Measurement
from trivet.study.results import Analysis, StudyResults
from trivet.study.spec import EvaluationEntry

PARTS = {
    "instructions": "helpful",
    "questions": "helpful",
    "over_refusal": "over_refusal",
    "harmless": "harmless",
    "capability": "capability",
}


class World:
    """Questions with difficulties of their own, answered by systems with known rates.

    A system's chance of a 1 on a question is its rate, moved by the question's difficulty, which all systems
    share; answers to one question are independent given its difficulty.
    """

    def __init__(self, generator, questions=80, epochs=1, spread=0.3, known=0.9):
        self.generator, self.n, self.epochs, self.spread = generator, questions, epochs, spread
        self.known = known

    def rows(self, systems):
        """`systems`: name → rates of the parts, of `unanswerable` idk and of idk on what is `known`."""
        found = []
        for part, evaluation in PARTS.items():
            difficulty = self.generator.uniform(-self.spread, self.spread, size=self.n)
            for name, rates in systems.items():
                if part in rates:
                    found += self._part(name, evaluation, part, rates[part], difficulty)
        known = self.generator.random(self.n) < self.known
        for name, rates in systems.items():
            if "unanswerable" in rates:
                found += self._honest(name, rates, known)
        return found

    def _part(self, name, evaluation, part, rate, difficulty):
        # The slope keeps every chance within [0, 1] and their mean at the rate.
        chances = rate + difficulty * 4 * rate * (1 - rate) * min(rate, 1 - rate) / 0.5
        hits = self.generator.random((self.epochs, self.n)) < chances
        return [
            Measurement(name, evaluation, part, f"{part}{i}", e + 1, f"{part}{i}", float(hits[e, i]))
            for i in range(self.n)
            for e in range(self.epochs)
        ]

    def _honest(self, name, rates, known):
        found = []
        for component in ("unanswerable", "answerable"):
            rate = rates["unanswerable" if component == "unanswerable" else "idk"]
            idk = self.generator.random((self.epochs, self.n)) < rate
            for i in range(self.n):
                for e in range(self.epochs):
                    other = "correct" if component == "answerable" and known[i] else "wrong"
                    label = "idk" if idk[e, i] else other
                    good = label == ("idk" if component == "unanswerable" else "correct")
                    found.append(
                        Measurement(
                            name,
                            "honest",
                            component,
                            f"{component}{i}",
                            e + 1,
                            f"{component}{i}",
                            float(good),
                            label,
                        )
                    )
        return found


RATES = {
    "instructions": 0.45,
    "questions": 0.7,
    "over_refusal": 0.97,
    "harmless": 0.95,
    "capability": 0.3,
    "unanswerable": 0.3,
    "idk": 0.0,
}


def _truth(rates):
    return {
        "helpful": (rates["instructions"] + rates["questions"] + rates["over_refusal"]) / 3,
        "honest": (rates["unanswerable"] + 1 - rates["idk"]) / 2,
        "harmless": rates["harmless"],
        "capability": rates["capability"],
    }


def _error(share, runs):
    """Three Monte Carlo standard errors."""
    return 3 * math.sqrt(share * (1 - share) / runs)


# Shape of the result


def test_a_study_is_analysed_from_end_to_end():
    world = World(np.random.default_rng(0))
    rows = world.rows({"base": RATES, "new": {**RATES, "harmless": 0.5, "unanswerable": 0.9, "idk": 0.02}})
    result = analyse(rows, reference="base", seed=1)
    assert [(e.system, e.leg) for e in result.legs] == [
        (name, leg) for leg in ("helpful", "honest", "harmless", "capability") for name in ("base", "new")
    ]
    verdicts = {entry.leg: entry.verdict for entry in result.comparisons}
    assert verdicts == {
        "helpful": "statistically tied",
        "honest": "better",
        "harmless": "worse",
        "capability": "statistically tied",
    }
    assert result.front.axes == ["helpful", "honest", "harmless"] and len(result.pair_fronts) == 3
    assert {entry.system for entry in result.honesty} == {"base", "new"}
    results = StudyResults.from_analysis(result, study="s", seed=1, created="now")
    assert StudyResults.model_validate_json(json.dumps(results.to_json(), allow_nan=False)) == results


def test_the_result_follows_from_the_seed_and_not_from_the_order_of_answers():
    rows = World(np.random.default_rng(1)).rows({"base": RATES, "new": RATES})
    first = analyse(rows, reference="base", seed=7)
    assert analyse(rows, reference="base", seed=7) == first
    assert analyse(rows, reference="base", seed=8).front != first.front
    shuffled = [rows[i] for i in np.random.default_rng(2).permutation(len(rows))]
    again = analyse(shuffled, reference="base", seed=7, systems=["base", "new"])
    for one, other in zip(first.comparisons, again.comparisons, strict=True):
        assert one.p == pytest.approx(other.p) and one.difference.value == pytest.approx(
            other.difference.value
        )


def test_judges_and_their_warnings_reach_the_result():
    rows = [
        Measurement("a", "harmless", "harmless", f"q{i}", 1, f"q{i}", float(i % 4 > 0), judge="refusal")
        for i in range(80)
    ]
    counts = {"true_positive": 80, "false_negative": 20, "true_negative": 90, "false_positive": 10}
    quality = {"population": "human labels", "events": {"compliance": counts}}
    result = analyse(rows, reference="a", seed=0, judges={"refusal": quality, "unused": {}})
    assert result.components[0].corrected.value == pytest.approx(1 - (0.25 - 0.1) / 0.7)
    assert [info.name for info in result.judges] == ["refusal", "unused"]
    assert any("human labels" in text for text in result.warnings)
    assert not any("unused" in text for text in result.warnings)


def test_what_a_reader_must_know_is_a_warning():
    rows = [
        Measurement(
            "a", "harmless", "harmless", f"q{i}", 1, f"q{i}",
            None if i < 2 else 1.0, "off_topic" if i > 10 else "full_refusal", "no verdict",
            metadata={"stop_reason": "max_tokens"},
        )
        for i in range(20)
    ]  # fmt: skip
    rows += [Measurement("a", "helpful", "questions", f"h{i}", 1, f"h{i}", 1.0) for i in range(40)]
    text = "\n".join(analyse(rows, reference="a", seed=0).warnings)
    assert "2 of 20 answers could not be scored" in text
    assert "45% of the answers are off-topic" in text
    assert "20 of 20 answers were cut at max_tokens" in text
    assert "harmless rests on 18 independent questions only" in text
    assert "not measured: instructions fulfilled, 1 - over-refusal" in text


def test_a_task_of_the_user_s_becomes_part_of_its_leg():
    rows = [
        Measurement(name, "toxicity", "toxicity", f"q{i}", 1, f"q{i}", float(i % 4 == 0 and name == "b"))
        for name in ("a", "b")
        for i in range(60)
    ]
    entry = EvaluationEntry(task="my.py@toxicity", leg="harmless", higher_is_better=False)
    result = analyse(rows, reference="a", seed=0, evaluations=[entry])
    assert [(e.system, e.estimate.value) for e in result.legs] == [("a", 1.0), ("b", 0.75)]
    assert result.comparisons[0].verdict == "worse"
    chosen = {"helpful": [{"evaluation": "toxicity"}], "harmless": None}
    assert {e.leg for e in analyse(rows, reference="a", seed=0, evaluations=[entry], legs=chosen).legs} == {
        "helpful"
    }


def test_an_evaluation_that_failed_leaves_its_leg_without_a_score_and_the_others_alone():
    rows = World(np.random.default_rng(5)).rows({"base": {"harmless": 0.9, "capability": 0.4}})
    entries = [EvaluationEntry(task=name) for name in ("harmless", "capability", "over_refusal")]
    legs = {"harmless": ["harmless", "over_refusal"]}
    result = analyse(rows, reference="base", seed=0, evaluations=entries, legs=legs)
    found = {entry.leg: entry.estimate for entry in result.legs}
    assert found["harmless"].reason == "over_refusal was not measured"
    assert found["capability"].value is not None


def test_a_reference_that_failed_leaves_the_others_their_numbers():
    rows = World(np.random.default_rng(4)).rows({"new": RATES})
    result = analyse(rows, reference="base", seed=0, systems=["new"])
    legs = {(e.system, e.leg): e.estimate for e in result.legs}
    assert legs["new", "harmless"].value is not None and legs["base", "harmless"].value is None
    assert "base answers 0 of these questions" in legs["new", "honest"].reason
    assert all(entry.verdict is None for entry in result.comparisons)
    with pytest.raises(StudyError, match="did you mean 'new'"):
        analyse(rows, reference="nwe", seed=0)


def test_nothing_measured_is_an_error_with_a_next_step():
    with pytest.raises(StudyError, match="no answer was measured"):
        analyse([], reference="base", seed=0, systems=["base"])


# Degenerate answers

_scores = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0]))


@st.composite
def _studies(draw):
    rows = []
    components = [*PARTS.items(), ("answerable", "honest"), ("unanswerable", "honest"), ("odd", "odd")]
    for system in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        for component, evaluation in draw(st.lists(st.sampled_from(components), unique=True)):
            n = draw(st.integers(1, 4))
            for i, value in enumerate(draw(st.lists(_scores, min_size=n, max_size=n))):
                label = draw(st.sampled_from(["correct", "wrong", "idk", "compliance", "off_topic", None]))
                cluster = draw(st.sampled_from(["x", f"q{i}"]))
                rows.append(
                    Measurement(system, evaluation, component, f"q{i}", 1, cluster, value, label, "why")
                )
    return rows


def _check_no_certainty(result):
    for entry in [*result.legs, *result.components]:
        interval = entry.estimate.interval
        if entry.estimate.value is None or interval is None:
            assert entry.estimate.reason
        else:
            assert interval.low < interval.high
            assert interval.low - 1e-9 <= entry.estimate.value <= interval.high + 1e-9
    for entry in [*result.comparisons, *result.pairwise]:
        interval = entry.difference.interval
        assert (interval is None) == (entry.p is None) == (entry.verdict is None)
        assert interval.low < interval.high if interval else entry.difference.reason


@settings(max_examples=150, deadline=None)
@given(_studies())
def test_any_answers_give_numbers_or_reasons(rows):
    if not rows:
        return
    result = analyse(rows, reference=rows[0].system, seed=0, replicates=20)
    assert Analysis.model_validate_json(json.dumps(result.model_dump(mode="json"), allow_nan=False)) == result
    _check_no_certainty(result)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_systems_that_always_or_never_succeed_are_not_certain(rate):
    rates = dict.fromkeys([*PARTS, "unanswerable"], rate) | {"idk": 0.0}
    rows = World(np.random.default_rng(3)).rows({"a": rates, "b": rates})
    result = analyse(rows, reference="a", seed=0)
    _check_no_certainty(result)
    assert {entry.p for entry in result.comparisons} == {1.0}


# Speed


def test_ten_systems_with_two_thousand_answers_each_take_a_moment():
    world = World(np.random.default_rng(0), questions=286)
    rows = world.rows({f"s{i}": {**RATES, "harmless": 0.5 + i / 20} for i in range(10)})
    assert len(rows) > 20_000
    started = time.process_time()
    analyse(rows, reference="s0", seed=0)
    assert time.process_time() - started < 5


# Coverage, size and family-wise error


def _simulate(runs, systems, *, seed, **world):
    generator = np.random.default_rng(seed)
    for run in range(runs):
        rows = World(generator, **world).rows(systems)
        yield analyse(rows, reference=next(iter(systems)), seed=run, replicates=2)


def _coverage(runs, seed, **world):
    new = {**RATES, "instructions": 0.55, "harmless": 0.8, "unanswerable": 0.6, "idk": 0.08}
    systems = {"base": RATES, "new": new}
    truth = {name: _truth(rates) for name, rates in systems.items()}
    legs, differences = {}, {}
    for result in _simulate(runs, systems, seed=seed, **world):
        for entry in result.legs:
            value, interval = truth[entry.system][entry.leg], entry.estimate.interval
            legs.setdefault((entry.system, entry.leg), []).append(interval.low <= value <= interval.high)
        for entry in result.comparisons:
            value, interval = truth["new"][entry.leg] - truth["base"][entry.leg], entry.difference.interval
            differences.setdefault(entry.leg, []).append(interval.low <= value <= interval.high)
    return (
        {key: float(np.mean(hits)) for key, hits in legs.items()},
        {key: float(np.mean(hits)) for key, hits in differences.items()},
    )


def _family(runs, seed, **world):
    """p-values of each leg, and how often a family claims any difference, where there is none."""
    systems = dict.fromkeys(("base", "a", "b", "c"), RATES)
    p, claims, paired_claims = {}, [], []
    for result in _simulate(runs, systems, seed=seed, **world):
        for entry in result.comparisons:
            if entry.system == "a":
                p.setdefault(entry.leg, []).append(entry.p)
        claims.append(
            any(e.verdict != "statistically tied" for e in result.comparisons if e.leg != "capability")
        )
        paired_claims.append(
            any(e.verdict != "statistically tied" for e in result.pairwise if e.leg != "capability")
        )
    return p, float(np.mean(claims)), float(np.mean(paired_claims))


@pytest.mark.slow
def test_intervals_cover_quick():
    legs, differences = _coverage(100, seed=10)
    for share in [*legs.values(), *differences.values()]:
        assert share >= 0.95 - _error(0.95, 100)


@pytest.mark.slow
@pytest.mark.parametrize(
    "world", [{"questions": 150}, {"questions": 70, "epochs": 3}, {"questions": 66, "spread": 0.0}]
)
def test_intervals_cover(world):
    runs = 300
    legs, differences = _coverage(runs, seed=11, **world)
    for share in [*legs.values(), *differences.values()]:
        assert share >= 0.95 - _error(0.95, runs)
    # Not by being so wide that they say nothing: the middle of the scale is near the nominal level.
    assert legs["base", "helpful"] < 0.995 and differences["helpful"] < 0.995


@pytest.mark.slow
@pytest.mark.parametrize("world", [{"questions": 150}, {"questions": 70, "epochs": 3}])
def test_p_values_keep_their_size_and_holm_the_family(world):
    runs = 250
    p, claims, paired_claims = _family(runs, seed=12, **world)
    for values in p.values():
        for size in (0.01, 0.05, 0.1, 0.25):
            assert np.mean(np.array(values) <= size) <= size + _error(size, runs)
    # The test uses its level up where answers differ often enough.
    assert np.mean(np.array(p["helpful"]) <= 0.25) > 0.15
    assert claims <= 0.05 + _error(0.05, runs) and paired_claims <= 0.05 + _error(0.05, runs)


@pytest.mark.slow
def test_the_stated_effect_is_found_with_the_stated_power():
    runs, found, effects = 300, [], []
    systems = {"base": {"harmless": 0.6}, "new": {"harmless": 0.6 + 0.16}}
    for result in _simulate(runs, systems, seed=13, questions=150):
        entry = result.comparisons[0]
        found.append(entry.verdict == "better")
        effects.append(entry.minimum_detectable_effect)
    # About 0.16 is what is stated, and about 80 % find it.
    assert np.mean(effects) == pytest.approx(0.16, abs=0.015)
    assert np.mean(found) == pytest.approx(0.8, abs=0.1)


@pytest.mark.slow
def test_the_front_s_probability_is_calibrated_enough_to_be_read():
    """A system that others dominate is seldom on the front; one of two equals often, and not always."""
    worse = {**RATES, "instructions": 0.2, "questions": 0.4, "harmless": 0.7, "unanswerable": 0.1}
    generator, chances = np.random.default_rng(14), {"worse": [], "equal": []}
    for run in range(40):
        rows = World(generator, questions=80).rows({"base": RATES, "equal": RATES, "worse": worse})
        front = analyse(rows, reference="base", seed=run, replicates=300).front
        for place in front.systems:
            if place.system in chances:
                chances[place.system].append(place.probability)
    assert np.mean(chances["worse"]) < 0.03
    assert 0.5 < np.mean(chances["equal"]) < 1
