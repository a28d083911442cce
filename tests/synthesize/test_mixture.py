"""What every mixture keeps: each pair once, accounts that add up, no dependence on the order of the input."""

import json
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet._files import sha256_file
from trivet.data.prompts import normalise_prompt
from trivet.errors import DataError, TrivetError
from trivet.synthesize import (
    Mixture,
    conflict_aware_mixture,
    heuristic_mixture,
    preference_set,
    reward_margin_mixture,
    write_mixture,
)

RECIPES = {
    "heuristic": (heuristic_mixture, {}),
    "margin": (reward_margin_mixture, {"margin": -1.0}),
    "drop": (conflict_aware_mixture, {"target": 0.4}),
    "weight": (conflict_aware_mixture, {"target": 0.4, "action": "weight"}),
}

answers = st.sampled_from(["", " ", "yes", "yes ", "Yes", "no", "maybe", "it depends"])
margins = st.none() | st.integers(-2, 2).map(float)
rows_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.sampled_from(["Why?", "why", " WHY!", "Who?", "Where?", "When?", ""]),
            "chosen": answers,
            "rejected": answers,
            "dimension": st.sampled_from(["helpfulness", "honesty"]),
            "source": st.sampled_from(["one", "two"]),
            "scores": st.fixed_dictionaries({"helpfulness": margins, "honesty": margins}),
        }
    ),
    min_size=1,
    max_size=40,
)


def mixed(recipe: str, *sets: Any, **changes: Any) -> Mixture | None:
    """The mixture, or ``None`` where nothing or not enough is left for one."""
    module, values = RECIPES[recipe]
    try:
        return module.mix(module.Config(**{**values, **changes}), list(sets))
    except TrivetError:
        return None


def total(counts: Mapping[str, Mapping[str, int]]) -> Counter[tuple[str, str]]:
    return Counter({(d, s): n for d, sources in counts.items() for s, n in sources.items()})


@pytest.mark.parametrize("recipe", RECIPES)
@given(rows=rows_strategy, seed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_each_pair_comes_once_from_the_input_and_the_accounts_add_up(
    recipe: str, rows: list[dict[str, Any]], seed: int
) -> None:
    mixture = mixed(recipe, preference_set(rows), seed=seed)
    if mixture is None:
        return
    columns = ("prompt", "chosen", "rejected", "dimension", "source")
    given_rows = {tuple(row[name] for name in columns) for row in rows}
    kept = [tuple(row[name] for name in columns) for row in mixture.dataset]
    assert set(kept) <= given_rows
    keys = [(normalise_prompt(p), " ".join(c.split()), " ".join(r.split())) for p, c, r, _, _ in kept]
    assert len(set(keys)) == len(keys)
    assert all(p and c and r and c != r for p, c, r in keys)
    sheet = mixture.datasheet
    assert total(sheet.kept) == Counter((d, s) for *_, d, s in kept) and sheet.rows == len(kept)
    dropped = sum((total(counts) for counts in sheet.dropped.values()), Counter[tuple[str, str]]())
    assert total(sheet.read) == total(sheet.kept) + dropped
    assert total(sheet.read) == Counter((row["dimension"], row["source"]) for row in rows)


@pytest.mark.parametrize("recipe", RECIPES)
@given(rows=rows_strategy, order=st.randoms(use_true_random=False), cut=st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_the_order_of_rows_and_sets_changes_nothing(
    recipe: str, rows: list[dict[str, Any]], order: random.Random, cut: int
) -> None:
    turned = order.sample(rows, len(rows))
    cut = min(cut, len(rows))
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    again = [part for part in (turned[:cut], turned[cut:]) if part]
    straight = mixed(recipe, *map(preference_set, parts))
    other_sets = mixed(recipe, *map(preference_set, again))
    backwards = mixed(recipe, *map(preference_set, reversed(parts)))
    if straight is None or other_sets is None or backwards is None:
        assert straight is None and other_sets is None and backwards is None
        return
    assert straight.datasheet == backwards.datasheet
    assert straight.dataset.to_list() == backwards.dataset.to_list() == other_sets.dataset.to_list()
    assert straight.datasheet.rows_sha256 == other_sets.datasheet.rows_sha256


def numbered(n: int, dimension: str, source: str = "s", **more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{dimension} {i}?", "chosen": "yes", "rejected": "no", "dimension": dimension}
        | {"source": source, **more}
        for i in range(n)
    ]


def test_equal_seeds_give_equal_mixtures_and_another_seed_another() -> None:
    sets = [preference_set(numbered(30, "a")), preference_set(numbered(50, "b"))]

    def prompts(seed: int) -> list[str]:
        mixture = heuristic_mixture.mix(heuristic_mixture.Config(seed=seed), sets)
        return list(mixture.dataset["prompt"])

    assert prompts(1) == prompts(1)
    assert set(prompts(1)) != set(prompts(2)), "other pairs of b are drawn"
    assert prompts(1)[:20] != sorted(prompts(1))[:20], "the dimensions are shuffled together"


def test_one_conversational_set_makes_the_mixture_conversational() -> None:
    chat = {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        "chosen": [{"role": "assistant", "content": "Because."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "dimension": "b",
        "source": "chats",
    }
    sets = [Dataset.from_list(numbered(1, "a")), Dataset.from_list([chat])]
    mixture = heuristic_mixture.mix(heuristic_mixture.Config(), sets)
    by_source = {row["source"]: row for row in mixture.dataset}
    assert by_source["chats"] == chat
    assert by_source["s"]["prompt"] == [{"role": "user", "content": "a 0?"}]
    assert by_source["s"]["chosen"] == [{"role": "assistant", "content": "yes"}]
    assert mixture.datasheet.format == "conversational"


def test_trl_recognises_both_formats() -> None:
    trl = pytest.importorskip("trl.data_utils")
    (text,) = heuristic_mixture.mix(heuristic_mixture.Config(), [numbered(1, "a")]).dataset
    assert not trl.is_conversational(text)
    chat = {**text, "prompt": [{"role": "user", "content": "Why?"}]}
    (row,) = heuristic_mixture.mix(heuristic_mixture.Config(), [[chat]]).dataset
    assert trl.is_conversational(row)


def test_of_repeated_pairs_the_one_with_most_scores_is_kept() -> None:
    scored = numbered(1, "a", scores={"x": 1.0})
    for sets in ([numbered(1, "b"), scored], [scored, numbered(1, "b")]):
        sets[0][0]["prompt"] = sets[1][0]["prompt"] = "The same?"
        mixture = heuristic_mixture.mix(
            heuristic_mixture.Config(proportions={"a": 1, "b": 0}), [preference_set(rows) for rows in sets]
        )
        assert mixture.dataset["dimension"] == ["a"]
        assert mixture.datasheet.dropped == {"duplicate": {"b": {"s": 1}}}


@pytest.mark.parametrize("sets", [[], "rows.jsonl", {"train": []}, Dataset.from_list(numbered(1, "a"))])
def test_a_list_of_sets_is_needed(sets: Any) -> None:
    with pytest.raises(DataError, match="a list of one data set or more"):
        heuristic_mixture.mix(heuristic_mixture.Config(), sets)


def test_a_wrong_row_is_named_by_the_number_of_its_set() -> None:
    with pytest.raises(DataError) as raised:
        heuristic_mixture.mix(heuristic_mixture.Config(), [numbered(1, "a"), numbered(1, "a", scores=3)])
    assert raised.value.where == "set 2, row 1"


def test_a_written_mixture_is_read_back_and_its_datasheet_names_its_digest(tmp_path: Path) -> None:
    rows = numbered(5, "a") + numbered(3, "b\u2028|<b>", source="[x](http://example.com)")
    mixture = heuristic_mixture.mix(heuristic_mixture.Config(seed=7), [preference_set(rows, name="mine")])
    written = write_mixture(mixture, tmp_path / "mixture")
    lines = written.rows.read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line) for line in lines] == mixture.dataset.to_list()
    sheet = json.loads(written.datasheet.read_text(encoding="utf-8"))
    assert sheet["rows_sha256"] == sha256_file(written.rows) and sheet["rows"] == 7
    assert sheet["settings"]["seed"] == 7 and sheet["dropped"] == {"beyond proportion": {"a": {"s": 1}}}
    markdown = written.datasheet_markdown.read_text(encoding="utf-8")
    assert "beyond proportion" in markdown
    assert "| a | s | 5 | 1 | 4 |" in markdown
    assert "<b>" not in markdown.replace("\\<b\\>", "") and "[x](" not in markdown
    before = [path.read_bytes() for path in written]
    write_mixture(mixture, tmp_path / "mixture")
    assert [path.read_bytes() for path in written] == before
    assert len(list((tmp_path / "mixture").iterdir())) == 3


def test_a_half_written_mixture_has_no_datasheet(tmp_path: Path) -> None:
    mixture = heuristic_mixture.mix(heuristic_mixture.Config(), [numbered(4, "a")])
    written = write_mixture(mixture, tmp_path)
    written.rows.unlink()
    written.rows.mkdir()  # the rows cannot be replaced
    with pytest.raises(Exception, match="cannot write"):
        write_mixture(mixture, tmp_path)
    assert not written.datasheet.exists()
