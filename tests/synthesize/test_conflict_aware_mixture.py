"""Conflict between dimensions: worked drops and weights, minimality against a search, real data and judge."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trivet.data.public import load_public
from trivet.errors import ConfigError, DataError
from trivet.synthesize import Pair, PreferenceSet, preference_set, read_preference_set
from trivet.synthesize.conflict_aware_mixture import Config, conflict_weight, mix, worst_until


def scored(*scores: dict[str, Any] | None, dimension: str = "help") -> PreferenceSet:
    rows = [
        {"prompt": f"{dimension} {i}?", "chosen": "yes", "rejected": "no", "scores": one}
        for i, one in enumerate(scores)
    ]
    return preference_set(rows, dimension=dimension, source="s")


def rates(table: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["dimension"], row["reward of"]): row["rate"] for row in table}


def test_the_worst_conflicts_go_until_the_target_is_met() -> None:
    # 3 of 6 pairs of help are reversed: 3/6. Without the worst (−9): 2/5. Without the next (−2): 1/4 ≤ 0.25.
    # ⌈(3 − 0.25 · 6) / 0.75⌉ = 2 drops.
    helpful = scored(*({"safe": m} for m in (-1.0, -9.0, -2.0, 1.0, 0.0, 5.0)))
    safe = scored({"safe": 1.0}, {"safe": -1.0}, dimension="safe")
    mixture = mix(Config(target=0.25), [helpful, safe])
    assert set(mixture.dataset["prompt"]) == {
        "help 0?",
        "help 3?",
        "help 4?",
        "help 5?",
        "safe 0?",
        "safe 1?",
    }
    sheet = mixture.datasheet
    assert sheet.dropped == {"conflict": {"help": {"s": 2}}}
    assert rates(sheet.measures["conflict_before"]) == {("help", "safe"): 0.5, ("safe", "safe"): 0.5}
    assert rates(sheet.measures["conflict_after"]) == {("help", "safe"): 0.25, ("safe", "safe"): 0.5}
    assert [row["own"] for row in sheet.measures["conflict_before"]] == [False, True]
    assert "weight" not in mixture.dataset.column_names


def test_down_weighting_meets_the_target_and_drops_nothing() -> None:
    # n = 6, k = 3, t = 0.25: w = 0.25 · 3 / (0.75 · 3) = 1/3, and (3 · 1/3) / (3 · 1/3 + 3) = 1/4.
    helpful = scored(*({"safe": m} for m in (-1.0, -9.0, -2.0, 1.0, 0.0, 5.0)))
    mixture = mix(Config(target=0.25, action="weight"), [helpful])
    weights = dict(zip(mixture.dataset["prompt"], mixture.dataset["weight"], strict=True))
    third = pytest.approx(1 / 3)
    assert weights == {"help 0?": third, "help 1?": third, "help 2?": third} | {
        f"help {i}?": 1.0 for i in (3, 4, 5)
    }
    assert rates(mixture.datasheet.measures["conflict_after"]) == {("help", "safe"): pytest.approx(0.25)}
    assert mixture.datasheet.dropped == {}


def test_a_pair_that_more_dimensions_reverse_goes_first() -> None:
    # b reverses pairs 0 and 1, c reverses 1 and 2: pair 1 settles both, though 0 and 2 are reversed further.
    found = [{"b": -9.0}, {"b": -1.0, "c": -1.0}, {"c": -9.0}, {}]
    assert worst_until(found, 0.34) == {1}


def test_the_tolerance_is_in_the_unit_of_the_scores() -> None:
    sets = [scored({"safe": -0.5}, {"safe": -0.6}, {"safe": 1.0})]
    mixture = mix(Config(target=0.0, tolerance=0.5), sets)
    assert set(mixture.dataset["prompt"]) == {"help 0?", "help 2?"}


def test_a_pair_is_not_held_against_the_reward_of_its_own_dimension() -> None:
    sets = [scored({"help": -1.0, "safe": 1.0}, {"help": None, "safe": 1.0})]
    assert len(mix(Config(target=0.0), sets).dataset) == 2


def test_an_unscored_pair_is_dropped_and_counted() -> None:
    sets = [scored({"safe": 1.0}, {"safe": None}, None)]
    mixture = mix(Config(), sets)
    assert mixture.dataset["prompt"] == ["help 0?"]
    assert mixture.datasheet.dropped == {"unscored": {"help": {"s": 2}}}


@pytest.mark.parametrize("action", ["drop", "weight"])
def test_a_dimension_in_full_conflict_is_refused(action: str) -> None:
    with pytest.raises(DataError, match=r"'help' is left \(2 conflict\)"):
        mix(Config(action=action), [scored({"safe": -1.0}, {"safe": -2.0})])


def test_with_a_target_of_nothing_both_actions_drop_every_conflict() -> None:
    sets = [scored({"safe": -1.0}, {"safe": 1.0})]
    for action in ("drop", "weight"):
        assert mix(Config(target=0.0, action=action), sets).dataset["prompt"] == ["help 1?"]


found_strategy = st.lists(
    st.dictionaries(st.sampled_from("bc"), st.integers(-3, -1).map(float)), min_size=1, max_size=9
)
targets = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9])


def meets(found: list[dict[str, float]], target: float) -> bool:
    limit = Fraction(repr(target)) * len(found)
    return all(sum(b in one for one in found) <= limit for b in "bc")


@given(found_strategy, targets)
def test_dropping_meets_the_target_and_takes_conflicts_only(
    found: list[dict[str, float]], target: float
) -> None:
    dropped = worst_until(found, target)
    assert all(found[index] for index in dropped)
    assert meets([one for index, one in enumerate(found) if index not in dropped], target)
    assert bool(dropped) == (not meets(found, target))


@given(found_strategy, targets)
def test_against_one_dimension_no_smaller_set_of_drops_suffices(
    found: list[dict[str, float]], target: float
) -> None:
    found = [{b: m for b, m in one.items() if b == "b"} for one in found]
    n, k, t = len(found), sum(map(bool, found)), Fraction(repr(target))
    dropped = worst_until(found, target)
    assert len(dropped) == max(0, math.ceil((k - t * n) / (1 - t)))
    smaller = combinations(range(n), len(dropped) - 1) if dropped else ()
    assert not any(meets([one for i, one in enumerate(found) if i not in out], target) for out in smaller)
    assert all(
        found[index]["b"] <= found[other]["b"]
        for index in dropped
        for other in range(n)
        if found[other] and other not in dropped
    ), "the worst are dropped"


@given(found_strategy, targets)
def test_the_weight_is_the_largest_that_meets_the_target(
    found: list[dict[str, float]], target: float
) -> None:
    weight = conflict_weight(found, target)
    assert 0 <= weight <= 1

    def largest_rate(w: float) -> float:
        whole = sum(w if one else 1.0 for one in found)
        return max(w * sum(b in one for one in found) / whole if whole else 0.0 for b in "bc")

    assert largest_rate(weight) <= target + 1e-9
    if weight < 1 and any(not one for one in found):
        assert largest_rate(min(1.0, weight + 1e-3)) >= target


def test_conflict_needs_another_dimension() -> None:
    with pytest.raises(ConfigError, match="conflict is between dimensions, and there is only 'help'"):
        mix(Config(), [scored({"help": 1.0})])


@pytest.mark.parametrize("values", [{"target": 1.0}, {"target": -0.1}, {"tolerance": -1}, {"action": "keep"}])
def test_settings_out_of_bounds_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config(**values)


def truthful(real_data: Path, n: int) -> PreferenceSet:
    """Pairs of a right and a wrong answer to questions of TruthfulQA."""
    rows = [
        {
            "prompt": row["prompt"],
            "chosen": row["choices"][row["answer"]],
            "rejected": row["choices"][row["answer"] - 1],
        }
        for row in load_public("truthfulqa", real_data / "truthfulqa").rows[:n]
    ]
    return preference_set(rows, dimension="honesty", name="truthfulqa")


def short(pairs: PreferenceSet, n: int) -> PreferenceSet:
    """The first ``n`` of ``pairs`` that the judge's model reads in a moment."""

    def size(pair: Pair) -> int:
        return sum(len(message["content"]) for message in (*pair.prompt, *pair.chosen, *pair.rejected))

    return replace(pairs, pairs=tuple(pair for pair in pairs.pairs if size(pair) < 1500)[:n])


@pytest.mark.model
@pytest.mark.slow
def test_real_pairs_of_three_dimensions_under_a_real_judge(real_data: Path, embedded_model: str) -> None:
    harmless = read_preference_set(f"hh_single_turn/test:{real_data / 'hh-single-turn'}")
    helpful = read_preference_set(f"preference_pairs:{real_data / 'preference-pairs-en'}")
    sets = [short(harmless, 20), short(helpful, 12), truthful(real_data, 30)]
    config = Config(judges={"harmlessness": "harmlessness_head"}, target=0.2)
    mixture = mix(config, sets)
    before = rates(mixture.datasheet.measures["conflict_before"])
    after = rates(mixture.datasheet.measures["conflict_after"])
    assert max(before["helpfulness", "harmlessness"], before["honesty", "harmlessness"]) > 0.2
    assert all(after[a, "harmlessness"] <= 0.2 + 1e-9 for a in ("helpfulness", "honesty"))
    assert after["harmlessness", "harmlessness"] == before["harmlessness", "harmlessness"] < 0.5
    assert mixture.datasheet.format == "conversational"
    assert set(mixture.dataset["dimension"]) == {"harmlessness", "helpfulness", "honesty"}
    assert "conflict" in mixture.datasheet.dropped
