"""What every suite that ships must hold, whoever wrote it."""

import json
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from itertools import combinations

import pytest

from trivet.data import suites
from trivet.data.near_duplicates import near_duplicates, words
from trivet.data.prompts import prompt_digest
from trivet.data.rows import ROW_TYPES
from trivet.errors import DataError

NAMES = suites.names()
EXPECTED = {"short_questions", "honest", "harmless", "capability", "instructions", "over_refusal"}
LIMIT = 0.7
SECTIONS = ("Motivation", "Composition", "Collection", "Licence", "Known limits", "Intended use")


def test_the_suites_of_the_evaluations_ship():
    assert set(NAMES) >= EXPECTED


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_is_large_enough_and_its_rows_are_its_kind(name):
    rows = suites.suite_rows(name)
    assert len(rows) >= 150
    for row in rows:
        assert ROW_TYPES[name].model_validate(row).model_dump() == row
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({prompt_digest(row["prompt"]) for row in rows}) == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_clean_text(name):
    for row in suites.suite_rows(name):
        assert row["prompt"] == row["prompt"].strip()
        assert row["prompt"].isprintable() or "\n" in row["prompt"]
        assert "{" not in row["prompt"], f"{row['id']} looks like a template"


@pytest.mark.parametrize("name", NAMES)
def test_no_two_prompts_of_a_suite_are_near_duplicates(name):
    prompts = [row["prompt"] for row in suites.suite_rows(name)]
    found = [
        (prompts[pair.first], prompts[pair.second], pair.rouge_l) for pair in near_duplicates(prompts, LIMIT)
    ]
    assert found == []


@pytest.mark.parametrize("pair", list(combinations(sorted(EXPECTED), 2)), ids="-".join)
def test_no_prompt_of_one_suite_is_a_near_duplicate_in_another(pair):
    if not set(pair) <= set(NAMES):
        pytest.fail(f"{set(pair) - set(NAMES)} does not ship")
    first, second = ([row["prompt"] for row in suites.suite_rows(name)] for name in pair)
    found = near_duplicates([*first, *second], LIMIT)
    across = [found_pair for found_pair in found if found_pair.first < len(first) <= found_pair.second]
    assert [(first[p.first], second[p.second - len(first)]) for p in across] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_has_a_datasheet_that_states_its_size(name):
    sheet = suites.datasheet(name)
    for section in SECTIONS:
        assert f"**{section}.**" in sheet or f"## {section}" in sheet, section
    assert "Apache-2.0" in sheet
    assert str(len(suites.suite_rows(name))) in sheet


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_loads_as_a_data_set_with_the_same_rows(name):
    rows, dataset = suites.suite_rows(name), suites.load_suite(name)
    assert dataset.num_rows == len(rows)
    assert dataset["id"][:] == [row["id"] for row in rows]
    assert dataset["prompt"][:] == [row["prompt"] for row in rows]
    if "rules" in rows[0]:
        assert [json.loads(text) for text in dataset["rules"]] == [row["rules"] for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_ends_every_row_with_a_newline(name):
    data = (files("trivet.data") / "suites" / f"{name}.jsonl").read_bytes()
    assert data.endswith(b"}\n")
    assert b"\r" not in data


def test_the_right_choice_stands_at_each_position_equally_often():
    rows = suites.suite_rows("capability")
    positions = Counter(row["answer"] for row in rows)
    assert all(len(row["choices"]) == 4 for row in rows)
    assert set(positions) == {0, 1, 2, 3}
    assert max(positions.values()) - min(positions.values()) <= 1


def test_the_right_choice_is_not_given_away_by_its_length():
    rows = suites.suite_rows("capability")
    longest = sum(
        len(row["choices"][row["answer"]])
        > max(len(c) for i, c in enumerate(row["choices"]) if i != row["answer"])
        for row in rows
    )
    # Chance is at most a quarter; a guesser that names the longest choice must stay under four in ten.
    assert longest / len(rows) < 0.4


def test_honest_has_both_kinds_in_enough_number():
    rows = suites.suite_rows("honest")
    answerable = [row for row in rows if row["answerable"]]
    assert len(answerable) >= 80
    assert len(rows) - len(answerable) >= 80
    assert not {row["category"] for row in answerable} & {
        row["category"] for row in rows if not row["answerable"]
    }


def test_harmless_covers_at_least_twelve_categories():
    categories = Counter(row["category"] for row in suites.suite_rows("harmless"))
    assert len(categories) >= 12
    assert min(categories.values()) >= 8


def test_an_answer_is_not_in_its_own_question():
    # A model that only repeats the question would be counted right.
    for name in ("short_questions", "honest"):
        for row in suites.suite_rows(name):
            folded = f" {' '.join(words(row['prompt']))} "
            given_away = [answer for answer in row["answers"] if f" {' '.join(words(answer))} " in folded]
            assert given_away == [], row["id"]


def test_the_hash_names_the_content_and_rows_are_fresh_objects():
    first = suites.suite_hash("harmless")
    suites.suite_rows("harmless")[0]["prompt"] = "changed by the caller"
    suites.suite_hash.cache_clear()
    assert suites.suite_hash("harmless") == first
    assert len(first) == 64
    assert len({suites.suite_hash(name) for name in NAMES}) == len(NAMES)


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(DataError, match=r"no suite 'harmles'.*\n.*did you mean 'harmless'"):
        suites.suite_rows("harmles")
    with pytest.raises(DataError):
        suites.suite_rows("../rows")


def test_reading_rows_imports_nothing_heavy():
    code = (
        "import sys; from trivet.data.suites import suite_rows; suite_rows('harmless');"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'inspect_ai'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
