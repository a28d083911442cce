"""Killed at any instant, the same command goes on and nothing that was finished is done again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from trivet.study.journal import parse_line
from trivet.study.store import Store


def start(study: Path, store: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "trivet", "study", "run", str(study), "--store", str(store), "--quiet"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
    )  # fmt: skip


def run_to_end(study: Path, store: Path) -> float:
    started = time.monotonic()
    process = start(study, store)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    return time.monotonic() - started


def kill_until_done(
    study: Path, store: Path, pause: Callable[[], float], *, most: int, check: Callable[[], None]
) -> int:
    """Run and kill again and again; returns the number of kills before the run that ended by itself."""
    for kills in range(most):
        process = start(study, store)
        try:
            process.wait(timeout=pause())
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            check()
            continue
        errors = process.communicate()[1]
        assert process.returncode == 0, errors.decode()
        return kills
    run_to_end(study, store)
    return most


def journal_keys(store: Path) -> list[str]:
    """Keys of all answers that were ever finished, in the order in which they were written."""
    keys = []
    for path in sorted((store / "answers").glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            entry = parse_line(line)
            if entry is not None:
                keys.append(f"{path.stem}|{entry['key']}")
    return keys


def numbers(store: Path) -> dict[str, Any]:
    """The results without what a clock or the machine's memory says."""
    results = json.loads((store / "results.json").read_text())
    for cost in results["costs"]:
        for name in ("latency_seconds", "first_token_seconds", "peak_memory_bytes", "note"):
            cost.pop(name)
        # What another request left in the cache depends on which request came first.
        for name in ("forward_tokens", "prompt_tokens", "multiplier"):
            cost.pop(name)
    return {key: value for key, value in results.items() if key not in {"created", "environment"}}


def transcripts(store: Path) -> list[str]:
    return sorted((store / "transcripts.jsonl").read_text().splitlines())


def check_kills(study: Path, tmp_path: Path, wanted: int, seed: int) -> None:
    """Kill ``wanted`` times at random instants, over as many stores as it takes."""
    whole = run_to_end(study, tmp_path / "whole")
    expected, rows = numbers(tmp_path / "whole"), transcripts(tmp_path / "whole")
    count = len(journal_keys(tmp_path / "whole"))
    randomness, kills, round_number = random.Random(seed), 0, 0
    while kills < wanted:
        round_number += 1
        store = tmp_path / f"killed-{round_number}"
        before: list[set[str]] = [set()]

        def check(store: Path = store, before: list[set[str]] = before) -> None:
            now = set(journal_keys(store))
            assert before[0] <= now, "a finished answer was lost"
            before[0] = now
            if (store / "store.json").exists():
                damaged = [p for p in Store(store).verify() if "did not finish" not in p.what]
                assert damaged == []

        kills += kill_until_done(
            study, store, lambda: randomness.uniform(0.2, 1.0) * whole, most=wanted - kills, check=check
        )
        keys = journal_keys(store)
        assert len(keys) == len(set(keys)) == count, "an answer was generated twice, or is missing"
        assert numbers(store) == expected
        assert transcripts(store) == rows
        assert Store(store).verify() == []


@pytest.fixture
def long_study(write_study: Callable[..., Path]) -> Path:
    return write_study(
        evaluations=[{"task": "tasks.py@letters", "args": {"n": 15}, "leg": "helpful"}],
        max_tokens=60,
        deterministic=True,
        epochs=2,
    )


@pytest.mark.slow
def test_three_kills(long_study, tmp_path):
    check_kills(long_study, tmp_path, 3, seed=1)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_twenty_kills(long_study, tmp_path):
    check_kills(long_study, tmp_path, 20, seed=2)


@pytest.mark.full
@pytest.mark.model
@pytest.mark.timeout(1800)
def test_a_kill_with_the_real_model(tmp_path, embedded_model):
    study = tmp_path / "study.yaml"
    study.write_text(
        yaml.safe_dump(
            {
                "name": "real",
                "systems": {"base": {"model": embedded_model}},
                "evaluations": ["helpful"],
                "limit": 12,
                "max_tokens": 24,
                "deterministic": True,
            }
        )
    )
    check_kills(study, tmp_path, 1, seed=3)


@pytest.mark.slow
def test_a_finished_study_changes_nothing(write_study, tmp_path):
    study, store = write_study(), tmp_path / "store"
    run_to_end(study, store)

    def state() -> dict[str, tuple[int, int]]:
        files = [p for p in store.rglob("*") if p.is_file() and p.name != "lock"]
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in files}

    before = state()
    run_to_end(study, store)
    assert state() == before


@pytest.mark.slow
def test_more_prompts_do_not_generate_the_first_ones_again(write_study, tmp_path):
    store = tmp_path / "store"
    run_to_end(write_study(limit=4), store)
    first = journal_keys(store)
    run_to_end(write_study(limit=9), store)
    assert journal_keys(store)[: len(first)] != [] and set(first) < set(journal_keys(store))
    assert len(journal_keys(store)) == 2 * 9


@pytest.mark.slow
def test_interrupt_is_clean(long_study, tmp_path):
    process = start(long_study, tmp_path / "store")
    answers = tmp_path / "store" / "answers"
    deadline = time.monotonic() + 120
    while not (answers.is_dir() and any(p.stat().st_size for p in answers.iterdir())):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert "Traceback" not in errors.decode()
    assert "kept" in errors.decode()
    run_to_end(long_study, tmp_path / "store")
    keys = journal_keys(tmp_path / "store")
    assert len(keys) == len(set(keys)) == 60
