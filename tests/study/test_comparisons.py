import numpy as np
import pytest

from trivet.statistics.multiplicity import holm
from trivet.study.comparisons import compare
from trivet.study.leg_values import leg_result
from trivet.study.legs import Term
from trivet.study.measurements import Measurement
from trivet.study.scores import score_tables

LEGS = {name: [Term(name, name, 1.0, name)] for name in ("helpful", "harmless", "capability")}


def _scores(system, **legs):
    return [
        Measurement(system, leg, leg, f"{leg}{i}", 1, f"{leg}{i}", None if value is None else float(value))
        for leg, values in legs.items()
        for i, value in enumerate(values)
    ]


def _compare(rows, reference="ref"):
    systems = list(dict.fromkeys(row.system for row in rows))
    tables = score_tables(rows, systems)
    legs = {leg: terms for leg, terms in LEGS.items() if (leg, leg) in tables}
    results = [leg_result(leg, t, tables, name, reference) for leg, t in legs.items() for name in systems]
    return compare(legs, results, tables, systems, reference)


@pytest.fixture
def rows():
    generator = np.random.default_rng(5)
    found = []
    for name, rate in (("ref", 0.5), ("good", 0.9), ("same", 0.5), ("bad", 0.2)):
        found += _scores(
            name,
            helpful=generator.random(100) < rate,
            harmless=generator.random(80) < rate,
            capability=generator.random(60) < 0.5,
        )
    return found


def test_verdicts_rest_on_holm_within_the_family(rows):
    against, pairs = _compare(rows)
    legs = [entry for entry in against if entry.leg != "capability"]
    assert {entry.family_size for entry in legs} == {6}
    assert [entry.p_holm for entry in legs] == pytest.approx(holm([entry.p for entry in legs]))
    verdicts = {(entry.system, entry.leg): entry.verdict for entry in against}
    assert verdicts["good", "helpful"] == "better" and verdicts["bad", "harmless"] == "worse"
    assert verdicts["same", "helpful"] == verdicts["same", "harmless"] == "statistically tied"
    assert {entry.family_size for entry in against if entry.leg == "capability"} == {3}
    assert len(pairs) == 6 * 3 and {entry.family_size for entry in pairs} == {12, 6}
    assert all(entry.baseline == "ref" for entry in against)


def test_a_pair_and_its_comparison_with_the_reference_agree(rows):
    against, pairs = _compare(rows)
    for entry in against:
        twin = next(p for p in pairs if (p.leg, p.system, p.baseline) == (entry.leg, entry.system, "ref"))
        assert twin.difference == entry.difference and twin.p == entry.p and twin.p_holm >= entry.p_holm


def test_what_is_tied_states_the_effect_that_would_have_been_found(rows):
    against, _ = _compare(rows)
    tied = next(entry for entry in against if entry.system == "same" and entry.leg == "helpful")
    half = (tied.difference.interval.high - tied.difference.interval.low) / 2
    assert tied.minimum_detectable_effect > half * 1.3


def test_missing_scores_are_counted_and_a_leg_without_a_score_is_not_compared():
    rows = _scores("ref", helpful=[1, 0, 1, None], harmless=[1, 0])
    rows += _scores("new", helpful=[1, 1, None, 0], harmless=[None, None])
    against, _ = _compare(rows)
    helpful, harmless = against
    assert (helpful.n_questions, helpful.n_dropped) == (2, 2)
    assert harmless.verdict is None and harmless.p is None and harmless.p_holm is None
    assert harmless.difference.reason.startswith("new: no answer") and harmless.family_size == 1


def test_systems_that_answered_different_questions_are_not_compared():
    rows = _scores("ref", helpful=[1, 0, 1])
    rows += [Measurement("new", "helpful", "helpful", f"other{i}", 1, f"other{i}", 1.0) for i in range(3)]
    entry = _compare(rows)[0][0]
    assert entry.verdict is None and "no question is in both" in entry.difference.reason
    assert entry.n_dropped == 6


def test_one_system_has_nothing_to_compare():
    assert _compare(_scores("ref", helpful=[1, 0, 1])) == ([], [])
