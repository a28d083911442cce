"""Answers survive a kill between two turns, and what one task does wrong is its own failure."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trivet.errors import TrivetError
from trivet.study.driver import run_study
from trivet.study.finish import Outcome

TASKS = """
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser
from inspect_ai.scorer import Score, includes, match, mean, scorer
from inspect_ai.solver import generate, solver


def samples():
    return MemoryDataset([Sample(id=str(i), input=f"Number {i}?", target="e") for i in range(2)])


@solver
def three_turns():
    async def solve(state, generate):
        for turn in range(3):
            state = await generate(state)
            state.messages.append(ChatMessageUser(content=f"Go on, turn {turn}."))
        return state
    return solve


@task
def turns():
    return Task(dataset=samples(), solver=three_turns(), scorer=includes())


@task
def two_scores():
    return Task(dataset=samples(), solver=generate(), scorer=[includes(), match()])


@scorer(metrics=[mean()])
def words():
    async def score(state, target):
        return Score(value="splendid")
    return score


@task
def wordy():
    return Task(dataset=samples(), solver=generate(), scorer=words())
"""


def run(study: Path, store: Path, **options: Any) -> Outcome:
    return run_study(study, store, console=Console(quiet=True), show=False, **options)


@pytest.fixture
def study(write_study, tmp_path, tiny_model_folder):
    (tmp_path / "more.py").write_text(TASKS)
    systems = {"plain": {"model": str(tiny_model_folder), "sampling": {"temperature": 1.0}}}

    def write(*tasks: str, **changes: Any) -> Path:
        entries = [{"task": f"more.py@{name}", "leg": "helpful"} for name in tasks]
        values: dict[str, Any] = {"systems": systems, "evaluations": entries, "deterministic": True}
        return write_study(**{**values, **changes})

    return write


def told(journal: Path) -> list[tuple[str, str, int]]:
    entries = [json.loads(line) for line in journal.read_bytes().splitlines()]
    return [(e["key"], e["output"]["completion"], e["output"]["metadata"]["seed"]) for e in entries]


@pytest.mark.slow
def test_answers_after_a_replayed_one_keep_their_seeds(study, tmp_path):
    """Killed after the first turn and gone on, a conversation is the one that it would have been."""
    run(study("turns"), tmp_path / "whole")
    (journal,) = (tmp_path / "whole/answers").glob("*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    for kept in (1, 2):
        resumed = tmp_path / f"resumed-{kept}" / "answers"
        resumed.mkdir(parents=True)
        (resumed.parent / "store.json").write_bytes((tmp_path / "whole/store.json").read_bytes())
        (resumed / journal.name).write_bytes(b"".join(lines[:kept]))
        run(study("turns"), resumed.parent)
        assert told(resumed / journal.name) == told(journal)


def test_a_task_of_several_scores_fails_alone_and_says_what_mends_it(study, tmp_path):
    results = run(study("turns", "two_scores"), tmp_path / "store").results
    (failed,) = results.failed
    assert failed.evaluations == ["two_scores"] and "several scores: includes, match" in failed.error
    assert "`score:`" in failed.fix
    assert [row.evaluation for row in results.components] == ["turns"]


def test_words_where_numbers_are_needed_are_counted_as_not_scored(study, tmp_path):
    results = run(study("turns", "wordy"), tmp_path / "store").results
    row = next(row for row in results.components if row.evaluation == "wordy")
    assert row.n_unscored == row.n_answers == 2 and row.estimate.value is None
    assert "splendid" in next(iter(row.unscored_reasons))


@pytest.mark.parametrize("where", ["study", "system"])
def test_engine_auto_is_refused(study, tmp_path, tiny_model_folder, where):
    changes: dict[str, Any] = {"engine": "auto"}
    if where == "system":
        changes = {"systems": {"plain": {"model": str(tiny_model_folder), "engine": "auto"}}}
    with pytest.raises(TrivetError, match="engine: auto"):
        run(study("turns", **changes), tmp_path / "store")


def test_a_log_whose_prompts_only_share_their_ids_does_not_stand_in(study, tmp_path, tiny_model_folder):
    run(study("turns"), tmp_path / "first")
    (tmp_path / "before.eval").write_bytes((tmp_path / "first/logs/tiny/plain/turns.eval").read_bytes())
    systems = {"plain": {"model": str(tiny_model_folder)}, "before": {"log": "before.eval"}}
    (tmp_path / "more.py").write_text(TASKS.replace("Number {i}?", "Another {i}?"))
    results = run(study("turns", systems=systems), tmp_path / "second").results
    (failed,) = results.failed
    assert failed.systems == ["before"] and "is another one than that of turns" in failed.error


def test_a_reference_that_cannot_be_opened_is_said_to_be_another(study, tmp_path, tiny_model_folder):
    systems = {"lost": {"model": str(tmp_path / "nothing")}, "plain": {"model": str(tiny_model_folder)}}
    results = run(study("turns", systems=systems, reference="lost"), tmp_path / "store").results
    assert results.reference == "plain"
    assert any("the reference lost could not be opened" in warning for warning in results.warnings)
