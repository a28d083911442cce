"""Preference pairs that we wrote, and settings that train a tiny model on them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.train.constrained_runs import write_prompts

import trivet.judges.resolve  # noqa: F401  # a module that the name of a function hides

WORDS = ("red", "blue", "green", "honest", "helpful", "harmless", "river", "capital", "France", "Seine")
SHORT_REINFORCEMENT = {
    "max_steps": 4,
    "save_steps": 2,
    "num_generations": 3,
    "per_device_train_batch_size": 6,
    "max_completion_length": 6,
    "learning_rate": 3e-3,
    "beta": 0.1,
}
"""Fields of a trainer that learns from rewards, for a run of a few seconds."""


def make_pairs(count: int) -> list[dict[str, Any]]:
    """Pairs whose answers differ in length, now one and now the other being the longer."""
    pairs = []
    for number in range(count):
        word, other = WORDS[number % 10], WORDS[(number * 3 + 1) % 10]
        short, long = f"{word}.", " ".join([f"{other}, I think"] * (1 + number % 4)) + f" number {number}."
        chosen, rejected = (short, long) if number % 2 else (long, short)
        pairs.append(
            {
                "prompt": [{"role": "user", "content": f"What is {word} number {number}?"}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    return pairs


def cpu_arguments(kind: Any, folder: Path, **options: Any) -> Any:
    """TRL's arguments of a class of its own for a quiet run on a CPU."""
    return kind(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pairs of messages."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs(24)), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """References are not kept from one test to the next."""
    if "model" not in request.keywords:
        monkeypatch.setenv("TRIVET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_settings(tmp_path: Path, tiny_model_folder: Path, pairs_file: Path) -> Callable[..., Path]:
    """Writes settings for a short run of a tiny model; keyword arguments replace keys."""

    def write(name: str = "settings.yaml", trainer: dict[str, Any] | None = None, **changes: Any) -> Path:
        values: dict[str, Any] = {
            "model": str(tiny_model_folder),
            "data": str(pairs_file),
            "seed": 3,
            "trainer": {
                "max_steps": 6,
                "per_device_train_batch_size": 4,
                "learning_rate": 1e-3,
                "save_steps": 2,
                **(trainer or {}),
            },
            **changes,
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


@pytest.fixture
def judges_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judges ``letters`` and ``markers``, beside those that ship."""
    module = sys.modules["trivet.judges.resolve"]
    own = {
        "letters": module.Kind("tests.train.letter_judge", "share of letters"),
        "markers": module.Kind("tests.train.marker_judge", "0 with a marker, 1 without"),
    }
    monkeypatch.setattr(module, "KINDS", {**module.KINDS, **own})


@pytest.fixture
def direct_settings(tmp_path: Path, tiny_model_folder: Path, judges_of_tests: None) -> Callable[..., Path]:
    """Writes settings of a short run of direct RLHF; keyword arguments replace keys."""
    rows = [{"prompt": f"What is {word}?"} for word in WORDS[:8]]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(trainer: dict[str, Any] | None = None, **changes: Any) -> Path:
        values: dict[str, Any] = {
            "model": str(tiny_model_folder),
            "data": "prompts.jsonl",
            "judge": "letters",
            "seed": 3,
            "trainer": {
                "max_steps": 4,
                "save_steps": 2,
                "num_generations": 2,
                "per_device_train_batch_size": 6,
                "max_completion_length": 6,
                "learning_rate": 3e-3,
                "beta": 0.1,
                **(trainer or {}),
            },
            **changes,
        }
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def constrained_settings(
    tmp_path: Path, tiny_model_folder: Path, judges_of_tests: None
) -> Callable[..., Path]:
    """Writes settings of a short run of HC-RLHF with an easy limit; keyword arguments replace keys."""
    write_prompts(tmp_path / "prompts.jsonl")

    def write(trainer: dict[str, Any] | None = None, **changes: Any) -> Path:
        values = {
            "model": str(tiny_model_folder),
            "data": "prompts.jsonl",
            "reward": "letters",
            "cost": "letters",
            "cost_low": 0.0,
            "cost_high": 1.0,
            "limit": 0.95,
            "delta": 0.1,
            "held_out": 6,
            "safety": 14,
            "candidates": 2,
            "buffer": 16,
            "adapter": {"r": 4, "target_modules": ["q_proj", "up_proj"]},
            "seed": 3,
            "trainer": {**SHORT_REINFORCEMENT, **(trainer or {})},
            **changes,
        }
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
        return path

    return write
