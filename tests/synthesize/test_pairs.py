"""Preference rows: TRL's forms are read as they are, and what is wrong is named with its place."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trivet.errors import DataError
from trivet.synthesize import preference_set, read_preference_set


def row(**changes: Any) -> dict[str, Any]:
    whole = {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "dimension": "honesty", "source": "s"}
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_texts_and_messages_say_the_same_pair() -> None:
    chat = row(
        prompt=[message("user", "why")],
        chosen=[message("assistant", "Because. ")],
        rejected=[message("assistant", "No.")],
    )
    text, messages = preference_set([row(), chat]).pairs
    assert text.key == messages.key and text.identity != messages.identity
    assert (text.conversational, messages.conversational) == (False, True)
    assert text.prompt == [message("user", "Why?")]


def test_case_and_punctuation_count_in_answers() -> None:
    first, second, third = preference_set([row(), row(chosen="because."), row(chosen="Because.\n")]).pairs
    assert first.key != second.key and first.key == third.key


def test_scores_are_margins_or_two_scores_and_what_is_not_a_number_is_not_there() -> None:
    scores = {"a": 0.5, "b": {"chosen": 3, "rejected": 1}, "c": None, "d": float("nan")}
    scores |= {"e": {"chosen": 1.0, "rejected": None}, "f": {"chosen": 1.0}, "g": float("inf")}
    (pair,) = preference_set([row(scores=scores)]).pairs
    assert pair.margins == {"a": 0.5, "b": 2.0}


def test_rows_of_arrow_are_read_as_those_in_memory() -> None:
    rows = [row(scores={"a": 1.0}), row(prompt="Who?", scores={"b": -1.0})]
    in_memory = preference_set(rows)
    assert preference_set(Dataset.from_list(rows)).pairs == in_memory.pairs


def test_the_dimension_and_the_source_of_a_set_stand_in_for_missing_ones() -> None:
    rows = [row(), row(dimension=..., source=...), row(dimension=None, source=None)]
    pairs = preference_set(rows, dimension="helpfulness", source="mine", name="set").pairs
    assert [(p.dimension, p.source) for p in pairs] == [("honesty", "s"), *[("helpfulness", "mine")] * 2]
    assert preference_set([row(source=...)], name="my set").pairs[0].source == "my set"


@pytest.mark.parametrize(
    ("wrong", "message_part"),
    [
        (row(chosen=...), "'chosen' is missing"),
        (row(prompt=...), "trl.extract_prompt"),
        (row(dimension=...), "'dimension' is missing"),
        (row(source=...), "'source' is missing"),
        (row(dimension=" "), "not blank"),
        (row(prompt=3), "must be text or a list of messages, not int"),
        (row(prompt=[{"role": "user"}]), "'role' and 'content'"),
        (row(prompt=[{**message("user", "a"), "name": "b"}]), "and no other"),
        (row(prompt=[message("usr", "a")]), "did you mean 'user'?"),
        (row(chosen=[message("user", "a"), message("assistant", "b")]), "trl.extract_prompt"),
        (row(rejected=[message("assistant", "a"), message("user", "b")]), "ends with a message of the"),
        (row(prompt="\ud800"), "surrogate"),
        (row(scores=[1]), "'scores' must be a mapping"),
        (row(scores={"a": "much"}), "a score is a number"),
        (row(scores={"a": True}), "a score is a number"),
        (row(scores={"a": {"chosen": 1, "refused": 0}}), "'chosen' and 'rejected'"),
        ("text", "a row is a mapping"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(wrong: Any, message_part: str) -> None:
    with pytest.raises(DataError) as raised:
        preference_set([row(), wrong])
    assert message_part in str(raised.value)
    assert str(raised.value.where).startswith("row 2")


@pytest.mark.parametrize("rows", ["rows.jsonl", {"train": []}, []])
def test_rows_are_needed(rows: Any) -> None:
    with pytest.raises(DataError, match="row"):
        preference_set(rows, name="mine")


def test_a_file_is_read_with_its_digest_and_its_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n\n" + json.dumps(row(source=...)) + "\n", encoding="utf-8")
    read = read_preference_set(path)
    assert read.name == "pairs.jsonl" and read.pairs[0].source == "pairs.jsonl"
    assert read.provenance["revision"].startswith("sha256:")
    path.write_text("\n\n" + json.dumps(row(chosen=...)) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_preference_set(path)
    assert str(raised.value.where).endswith("pairs.jsonl, line 3")


def test_public_sets_bring_dimension_source_and_licence(real_data: Path) -> None:
    harmless = read_preference_set(f"hh_single_turn/test:{real_data / 'hh-single-turn'}")
    assert {pair.dimension for pair in harmless.pairs} == {"harmlessness"}
    assert {pair.source for pair in harmless.pairs} == {"hh_single_turn/test"}
    assert harmless.provenance["licence"] == "MIT"
    helpful = read_preference_set(f"preference_pairs:{real_data / 'preference-pairs-en'}", dimension="help")
    assert {pair.dimension for pair in helpful.pairs} == {"help"} and len(helpful.pairs) > 200
