"""Studies on a tiny random model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from tests.conftest import make_tiny_model
from tests.train.conftest import make_pairs

from trivet.study.driver import run_study
from trivet.study.finish import Outcome
from trivet.study.store import Store

QUIET = Console(quiet=True)

TASKS = """
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, includes, mean, scorer
from inspect_ai.solver import generate


def samples(n):
    return MemoryDataset([
        Sample(id=f"q{i}", input=f"Say something about the number {i}.", target="e",
               metadata={"category": "even" if i % 2 == 0 else "odd"})
        for i in range(n)
    ])


@task
def letters(n: int = 12):
    return Task(dataset=samples(n), solver=generate(), scorer=includes())


@scorer(metrics=[mean()])
def fails():
    async def score(state, target):
        raise RuntimeError("this scorer is broken")

    return score


@task
def broken_scorer():
    return Task(dataset=samples(4), solver=generate(), scorer=fails())


@scorer(metrics={"length": [mean()], "vowels": [mean()]})
def two_parts():
    async def score(state, target):
        text = state.output.completion
        return Score(value={"length": len(text), "vowels": sum(c in "aeiou" for c in text)})

    return score


@task
def parts():
    return Task(dataset=samples(6), solver=generate(), scorer=two_parts())


@task
def broken_task():
    raise ValueError("cannot be built")


@task
def empty():
    return Task(dataset=MemoryDataset([]), solver=generate(), scorer=includes())
"""


@pytest.fixture
def write_study(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., Path]:
    """Writes a study of two systems on the tiny model; keyword arguments replace keys."""
    (tmp_path / "tasks.py").write_text(TASKS)

    def write(**changes: Any) -> Path:
        model = str(tiny_model_folder)
        study: dict[str, Any] = {
            "name": "tiny",
            "seed": 1,
            "systems": {
                "plain": {"model": model, "sampling": {"temperature": 1.0}},
                "prompted": {"model": model, "system_prompt": "Be brief."},
            },
            "evaluations": [{"task": "tasks.py@letters", "leg": "helpful"}],
            "max_tokens": 8,
        }
        study.update(changes)
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in study.items() if v is not ...}, sort_keys=False))
        return path

    return write


def trivet(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process of its own, as a user does."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "trivet", *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=300, check=False, **options,
    )  # fmt: skip


def run_quietly(study: Path, store: Path) -> Outcome:
    """Run a study without a word."""
    return run_study(study, store, console=QUIET, show=False)


def trained(store: Path) -> list[Any]:
    """The manifests of all training runs in a store."""
    return [m for m in Store(store).manifests() if m.description["method"].startswith("train/")]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "store"


@pytest.fixture
def training(write_study: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a study of a base, an adapter on it, and the same adapter with a system prompt."""
    make_tiny_model(tmp_path / "models" / "base")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs(12)))

    def write(changes: dict[str, Any] | None = None, **others: Any) -> Path:
        settings = {
            "method": "dpo",
            "model": "models/base",
            "data": "pairs.jsonl",
            "adapter": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
            "trainer": {
                "max_steps": 4,
                "save_steps": 1,
                "per_device_train_batch_size": 2,
                "learning_rate": 0.05,
            },
            **(changes or {}),
        }
        systems = {
            "base": {"model": "models/base"},
            "after": {"train": settings},
            "after_careful": {"train": settings, "system_prompt": "Be careful."},
        }
        evaluations = [{"task": "tasks.py@letters", "args": {"n": 4}, "leg": "helpful"}]
        return write_study(**{"systems": systems, "evaluations": evaluations, **others})

    return write
