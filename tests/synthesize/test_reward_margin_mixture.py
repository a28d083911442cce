"""Margins: worked selections, three-valued scores, real judges, and errors that name the objective."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import ConfigError, DataError
from trivet.synthesize import Pair, PreferenceSet, preference_set, read_preference_set
from trivet.synthesize.reward_margin_mixture import Config, mix


def scored(*scores: dict[str, Any] | None, dimension: str = "help") -> PreferenceSet:
    rows = [
        {"prompt": f"{dimension} {i}?", "chosen": "yes", "rejected": "no", "scores": one}
        for i, one in enumerate(scores)
    ]
    return preference_set(rows, dimension=dimension, source="s")


def kept(config: Config, *sets: PreferenceSet) -> set[str]:
    return set(mix(config, list(sets)).dataset["prompt"])


def test_every_wanted_margin_must_reach_the_threshold() -> None:
    sets = scored({"x": 1.0, "y": 0.5}, {"x": 3.0, "y": 0.4}, {"x": 0.5, "y": 9.0}, {"x": 0.4, "y": -1.0})
    assert kept(Config(margin=0.5), sets) == {"help 0?", "help 2?"}
    assert kept(Config(margin=0.5, objectives=("x",)), sets) == {"help 0?", "help 1?", "help 2?"}
    assert kept(Config(margin={"x": 0.4, "y": -1.0}), sets) == {f"help {i}?" for i in range(4)}


def test_the_largest_mean_margins_fill_a_dimension() -> None:
    # Means 2, 3 and 1 of three that pass: honesty has one pair, so one of helpfulness is taken.
    helpful = scored({"x": 1.0, "y": 3.0}, {"x": 3.0, "y": 3.0}, {"x": 1.0, "y": 1.0}, {"x": -1.0, "y": 9.0})
    honest = scored({"x": 0.0, "y": 0.0}, dimension="honest")
    mixture = mix(Config(total=2), [helpful, honest])
    assert set(mixture.dataset["prompt"]) == {"help 1?", "honest 0?"}
    assert mixture.datasheet.dropped == {
        "below margin": {"help": {"s": 1}},
        "beyond proportion": {"help": {"s": 2}},
    }
    after = {(row["dimension"], row["objective"]): row for row in mixture.datasheet.measures["margins_after"]}
    assert after["help", "x"]["mean"] == 3.0 and after["help", "x"]["pairs"] == 1


def test_an_unscored_pair_is_dropped_and_counted_and_never_zero() -> None:
    sets = scored({"x": 1.0}, {"x": None}, None, {"x": float("nan")}, {"x": -1.0})
    # Taken as zero, three pairs would pass a margin of 0 or −0.5.
    mixture = mix(Config(margin=-0.5), [sets])
    assert mixture.dataset["prompt"] == ["help 0?"]
    assert mixture.datasheet.dropped == {
        "below margin": {"help": {"s": 1}},
        "unscored": {"help": {"s": 3}},
    }


@given(
    st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=15),
    st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=15),
    st.integers(-5, 5),
)
@settings(max_examples=40, deadline=None)
def test_the_mixture_is_the_top_of_what_passes(a: list[float], b: list[float], margin: int) -> None:
    passing = {d: sorted((m for m in ms if m >= margin), reverse=True) for d, ms in (("a", a), ("b", b))}
    config = Config(margin=float(margin))
    sets = [scored(*({"x": m} for m in ms), dimension=d) for d, ms in (("a", a), ("b", b))]
    if not passing["a"] or not passing["b"]:
        with pytest.raises(DataError):
            mix(config, sets)
        return
    mixture = mix(config, sets)
    scores = {f"{d} {i}?": m for d, ms in (("a", a), ("b", b)) for i, m in enumerate(ms)}
    for dimension, margins in passing.items():
        mine = (row["prompt"] for row in mixture.dataset if row["dimension"] == dimension)
        taken = sorted((scores[prompt] for prompt in mine), reverse=True)
        assert taken == margins[: len(taken)]


def test_a_judge_scores_every_pair_whatever_the_rows_hold() -> None:
    rows = [
        {
            "prompt": "1?",
            "chosen": "I cannot help with that.",
            "rejected": "Sure.",
            "scores": {"refusal": -9.0},
        },
        {
            "prompt": "2?",
            "chosen": "Sure.",
            "rejected": "I cannot help with that.",
            "scores": {"refusal": 9.0},
        },
        {"prompt": "3?", "chosen": "Sure.", "rejected": "Of course."},
    ]
    sets = [preference_set(rows, dimension="harmless", source="s")]
    judges = {"refusal": "refusal_string_match"}
    # The judge's margins are 1 − 0, 0 − 1 and 0 − 0.
    mixture = mix(Config(judges=judges, margin=1.0), sets)
    assert mixture.dataset["prompt"] == ["1?"]
    (card,) = mixture.datasheet.measures["judges"]
    assert (card["judge"], card["objective"], len(card["identity"])) == (
        "refusal_string_match",
        "refusal",
        64,
    )
    (before,) = mixture.datasheet.measures["margins_before"]
    assert (before["pairs"], before["mean"], before["smallest"], before["largest"]) == (3, 0.0, -1.0, 1.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(objectives=("z",)), "nothing scores the objective 'z'"),
        (Config(objectives=("x",), judges={"y": "refusal_string_match"}), "'y', which is not asked for"),
        (Config(margin={"x": 1.0, "z": 0.0}), "the objectives are x"),
        (Config(judges={"y": "refusal_strng_match"}), "did you mean 'refusal_string_match'"),
    ],
)
def test_an_unknown_objective_or_judge_is_named(config: Config, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        mix(config, [scored({"x": 1.0})])
    assert message in str(raised.value)


def test_rows_without_scores_and_without_judges_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing scores the pairs"):
        mix(Config(), [scored(None)])


def test_objectives_scored_in_different_sets_only_are_refused() -> None:
    with pytest.raises(DataError, match="no pair is scored on all of x, y"):
        mix(Config(), [scored({"x": 1.0}), scored({"y": 1.0}, dimension="honest")])


def test_a_dimension_that_loses_all_its_pairs_says_why() -> None:
    with pytest.raises(DataError, match=r"'honest' is left \(1 below margin\)"):
        mix(Config(), [scored({"x": 1.0}), scored({"x": -1.0}, dimension="honest")])


def short(pairs: PreferenceSet, n: int) -> PreferenceSet:
    """The first ``n`` of ``pairs`` that the judge's model reads in a moment."""

    def size(pair: Pair) -> int:
        return sum(len(message["content"]) for message in (*pair.prompt, *pair.chosen, *pair.rejected))

    return replace(pairs, pairs=tuple(pair for pair in pairs.pairs if size(pair) < 1500)[:n])


@pytest.mark.model
@pytest.mark.slow
def test_real_pairs_under_a_real_judge(real_data: Path, embedded_model: str) -> None:
    harmless = read_preference_set(f"hh_single_turn/test:{real_data / 'hh-single-turn'}")
    helpful = read_preference_set(f"preference_pairs:{real_data / 'preference-pairs-en'}")
    sets = [short(harmless, 30), short(helpful, 12)]
    mixture = mix(Config(judges={"harmlessness": "harmlessness_head"}), sets)
    sheet = mixture.datasheet
    numbers = {dimension: sum(sources.values()) for dimension, sources in sheet.kept.items()}
    assert abs(numbers["harmlessness"] - numbers["helpfulness"]) <= 1 and sheet.rows >= 6
    (card,) = sheet.measures["judges"]
    assert card["judge"] == "harmlessness_head" and card["quality"]["accuracy"]["value"] > 0.65
    assert all(row["smallest"] >= 0 for row in sheet.measures["margins_after"])
    before = {row["dimension"]: row for row in sheet.measures["margins_before"]}
    assert before["harmlessness"]["mean"] > 0, "the head agrees with the labels on average"
    below = sum(sheet.dropped["below margin"].get("harmlessness", {}).values())
    assert 0 < below / before["harmlessness"]["pairs"] < 0.5, "its accuracy here is above one half"
