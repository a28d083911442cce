"""Answers to a file of prompts: bad rows are named, and whatever interrupts it, the next run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trivet.errors import ContextLengthError, DataError, StoreError
from trivet.models.engines import close_engines
from trivet.systems import System
from trivet.systems.answers_file import AnswersFile, answer_all, read_questions

SETTINGS = {"seed": 0}


@pytest.fixture(scope="module")
def system(tiny_model_folder: Path) -> Iterator[System]:
    yield System.load(str(tiny_model_folder), name="tiny").open()
    close_engines()


def write_prompts(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(system: System, prompts: Path, output: Path, **options: Any) -> int:
    """One run as `trivet generate` does it; returns how many answers were generated."""
    questions = read_questions(prompts)
    answers = AnswersFile(output, system=system.identity, settings=SETTINGS, **options)
    missing = [question for question in questions if question not in answers]
    answer_all(
        system, missing, window=4, seed=0,
        options={"max_tokens": 4, "sampling": {"temperature": 1.0}}, on_answer=answers.add,
    )  # fmt: skip
    answers.finish(questions)
    return len(missing)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_come_in_the_order_of_the_prompts_with_the_rows_own_fields(
    system: System, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Question {n}", "id": n, "topic": "é"} for n in range(9)]
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    prompts = write_prompts(tmp_path / "p.jsonl", *rows, {"messages": chat})
    assert run(system, prompts, tmp_path / "a.jsonl") == 10
    answers = read(tmp_path / "a.jsonl")
    assert [answer.get("id") for answer in answers] == [*range(9), None]
    assert answers[0]["topic"] == "é"
    assert answers[9]["messages"] == chat
    assert {answer["system"] for answer in answers} == {system.identity}
    assert all(answer["usage"]["completion_tokens"] <= 4 for answer in answers)


def test_a_prompt_asked_twice_is_answered_twice(system: System, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", *[{"prompt": "Same"}] * 4)
    assert run(system, prompts, tmp_path / "a.jsonl") == 4
    assert len({row["answer"] for row in read(tmp_path / "a.jsonl")}) > 1


def test_a_second_run_keeps_everything_and_asks_what_is_new(system: System, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})
    run(system, prompts, tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_bytes()
    assert run(system, prompts, tmp_path / "a.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_bytes() == before
    write_prompts(prompts, {"prompt": "c"}, {"prompt": "b"})
    assert run(system, prompts, tmp_path / "a.jsonl") == 1
    assert [row["prompt"] for row in read(tmp_path / "a.jsonl")] == ["c", "b", "a"]
    assert read(tmp_path / "a.jsonl")[1] == json.loads(before.splitlines()[1])


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_line_that_was_cut_short_is_asked_again(system: System, tmp_path: Path, cut: int) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"})
    output = tmp_path / "a.jsonl"
    run(system, prompts, output)
    whole = output.read_bytes()
    output.write_bytes(whole[:-cut])
    assert run(system, prompts, output) == (1 if cut > 1 else 0)
    answers = [{**row, "seconds": 0, "usage": 0} for row in read(output)]
    assert answers == [{**json.loads(line), "seconds": 0, "usage": 0} for line in whole.splitlines()]


def test_answers_do_not_depend_on_what_was_there_before(system: System, tmp_path: Path) -> None:
    several = write_prompts(tmp_path / "p.jsonl", *[{"prompt": f"Question {n}"} for n in range(5)])
    run(system, several, tmp_path / "all.jsonl")
    one = write_prompts(tmp_path / "one.jsonl", {"prompt": "Question 3"})
    run(system, one, tmp_path / "single.jsonl")
    assert read(tmp_path / "single.jsonl")[0]["answer"] == read(tmp_path / "all.jsonl")[3]["answer"]


def test_a_file_of_something_else_is_refused_and_left_alone(system: System, tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    for content, said in (
        ('{"prompt": "x"}\n', "is not an answer of"),
        ("my notes\nmore\n", "line 1: is not JSON"),
        ('{"key": "k", "system": "other@000000000000", "settings": {"seed": 0}}\n', "of other@"),
        (f'{{"key": "k", "system": "x@{system.hash12}", "settings": {{"seed": 1}}}}\n', "other settings"),
    ):
        output.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=said):
            AnswersFile(output, system=system.identity, settings=SETTINGS)
        assert output.read_text(encoding="utf-8") == content
    prompts = write_prompts(tmp_path / "p.jsonl", {"prompt": "a"})
    assert run(system, prompts, output, overwrite=True) == 1
    assert len(read(output)) == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prmpt": "a"}, "line 2: the field 'prompt' is missing"),
        ({"prompt": 3}, "line 2: .*must be text"),
        ({"prompt": "  "}, "line 2: .*blank"),
        ({"prompt": "a", "messages": []}, "not both"),
        ({"messages": []}, "at least one"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "message 1: 'role'"),
        ({"messages": [{"role": "user"}]}, "message 1: 'content' must be text"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "must not be the assistant's"),
        ({"prompt": "a", "answer": "b"}, "the answers' file adds"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: Any, said: str) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", {"prompt": "fine"}, row)
    with pytest.raises(DataError, match=said) as caught:
        read_questions(prompts)
    assert "p.jsonl" in str(caught.value)


def test_no_rows_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        read_questions(write_prompts(tmp_path / "p.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "gone.jsonl")


def test_a_prompt_that_is_too_long_names_its_row_and_keeps_the_others(system: System, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "word " * 600})
    with pytest.raises(ContextLengthError, match="context") as caught:
        run(system, prompts, tmp_path / "a.jsonl")
    assert "line 2" in str(caught.value)


def test_a_folder_that_cannot_be_written(system: System, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", {"prompt": "a"})
    (tmp_path / "file").write_text("")
    with pytest.raises((StoreError, OSError)) as caught:
        run(system, prompts, tmp_path / "file" / "a.jsonl")
    assert isinstance(caught.value, StoreError)


@pytest.mark.slow
def test_killed_at_any_instant_it_goes_on(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", *[{"prompt": f"Question {n}"} for n in range(40)])
    output = tmp_path / "a.jsonl"
    command = [
        sys.executable, "-m", "trivet", "generate", "--input", str(prompts), "--output", str(output),
        "--system", str(tiny_model_folder), "--max-tokens", "30", "--window", "4",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    counts = [0]
    for wanted in (5, 15):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if output.exists() and output.read_bytes().count(b"\n") >= wanted:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.005)
        process.wait()
        whole = output.read_bytes().rpartition(b"\n")[0].splitlines()
        counts.append(len(whole))
        assert counts[-1] >= max(counts[:-1]), "a finished answer was lost"
        assert all(json.loads(line)["answer"] is not None for line in whole)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = read(output)
    assert [row["prompt"] for row in answers] == [f"Question {n}" for n in range(40)]
    assert f"{counts[-1]} of them kept" in done.stderr
