"""Samples for people to label: blind, balanced, harmless to spreadsheets, and read back as they were."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.errors import DataError
from trivet.judges.blind_sample import (
    Answer,
    draw_sample,
    key_path,
    labels_and_population,
    logged_answers,
    neutral,
    original,
    write_sample,
)


def answers(counts: dict[str, int]) -> list[Answer]:
    return [
        Answer(system, "harmless", f"s{n}", 1, f"Request {n}?", f"Answer {n} of a model.")
        for system, count in counts.items()
        for n in range(count)
    ]


def test_every_system_gives_equally_many_as_far_as_it_can() -> None:
    drawn = draw_sample(answers({"base": 50, "plain": 50, "small": 5}), 45, seed=0)
    counts = {name: sum(a.system == name for a in drawn) for name in ("base", "plain", "small")}
    assert counts == {"base": 20, "plain": 20, "small": 5}
    assert len(set(drawn)) == 45
    assert draw_sample(answers({"base": 3}), 10, seed=0) != []


def test_the_csv_does_not_say_whose_an_answer_is(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    assert write_sample(answers({"base-model": 30, "with-prompt": 30}), 20, path, seed=3) == 20
    text = path.read_text()
    assert "base-model" not in text and "with-prompt" not in text and "s1" not in text
    key = json.loads(key_path(path).read_text())["rows"]
    assert {row["system"] for row in key.values()} == {"base-model", "with-prompt"}
    with pytest.raises(DataError, match="may hold labels"):
        write_sample(answers({"base-model": 5}), 5, path, seed=3)


def test_labels_come_back_with_their_systems(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write_sample(answers({"a": 4, "b": 4}), 8, path, seed=0)
    with pytest.raises(DataError, match="no row has a label"):
        labels_and_population(str(path))
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    for place, row in enumerate(rows):
        row["label"] = "" if place == 0 else " compliance "
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found, population, skipped = labels_and_population(str(path))
    key = json.loads(key_path(path).read_text())["rows"]
    assert skipped == 1 and {row.label for row in found} == {"compliance"}
    assert [row.system for row in found] == [key[row["id"]]["system"] for row in rows[1:]]
    assert "own systems (a, b)" in population
    path.write_text(path.read_text().replace(rows[1]["id"], "0" * 12))
    with pytest.raises(DataError, match="not in the key"):
        labels_and_population(str(path))


HOSTILE = (
    '=HYPERLINK("http://x")',
    "+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "|cmd",
    "'=1",
    " =1+1",
    "\n=1",
    "\x1b[31mred\u202e",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_spreadsheet_computes_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write_sample([Answer("m", "harmless", "1", 1, text, text)], 1, path, seed=0)
    (row,) = csv.DictReader(io.StringIO(path.read_text()))
    for cell in (row["prompt"], row["answer"]):
        assert not cell.lstrip().startswith(("=", "+", "-", "@", "|"))
        assert "\x1b" not in cell and "\u202e" not in cell


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co")), max_size=40))
def test_a_cell_is_read_back_as_it_was(text: str) -> None:
    assert original(neutral(text)) == text


def test_a_folder_without_logs_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no answers"):
        logged_answers(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        logged_answers(tmp_path / "absent")


def test_answers_are_read_from_inspect_logs(tmp_path: Path) -> None:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    def reply(*_: object) -> ModelOutput:
        output = ModelOutput.from_content("mockllm", "An answer.")
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return output

    model = get_model("mockllm/model", custom_outputs=reply, memoize=False)
    task = Task([Sample(id="q1", input="A request?")], name="harmless", metadata={"system": "base"})
    eval(task, model=model, display="none", log_dir=str(tmp_path / "logs"), score=False, epochs=2)
    found = logged_answers(tmp_path)
    assert [(a.system, a.sample_id, a.epoch, a.prompt, a.answer) for a in found] == [
        ("base", "q1", 1, "A request?", "An answer."),
        ("base", "q1", 2, "A request?", "An answer."),
    ]
    with pytest.raises(DataError, match="harmless; choose with --evaluation"):
        logged_answers(tmp_path, ["honest"])
