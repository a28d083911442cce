"""Inference-aware alignment: whole runs on a tiny model, resuming bit by bit, wrong settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from tests.train.conftest import SHORT_REINFORCEMENT
from tests.train.letter_judge import LetterJudge
from tests.train.test_checkpoints import equal, stop_after, weights

from trivet.errors import TrivetError
from trivet.judges import resolve as judges
from trivet.train.calibrated_reward import CalibratedReward, calibration_notes, reward_table
from trivet.train.inference_evaluation import win_rates
from trivet.train.prompts import Prompt
from trivet.train.rollouts import Rollout
from trivet.train.running import train
from trivet.train.sampled_answers import Answer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WORDS = ("red", "blue", "green", "honest", "helpful", "harmless", "river", "capital")


@pytest.fixture(autouse=True)
def _letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge ``letters``, beside those that ship."""
    import sys

    module = sys.modules["trivet.judges.resolve"]
    kind = module.Kind("tests.train.letter_judge", "share of letters")
    monkeypatch.setattr(module, "KINDS", {**module.KINDS, "letters": kind})


@pytest.fixture
def settings(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., Path]:
    """Writes settings of a short run; keyword arguments replace keys."""
    rows = [{"prompt": f"What is {word}?"} for word in WORDS]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(trainer: dict[str, Any] | None = None, **changes: Any) -> Path:
        values = {
            "model": str(tiny_model_folder),
            "data": "prompts.jsonl",
            "judge": "letters",
            "samples": 12,
            "evaluation_samples": 6,
            "seed": 3,
            "trainer": {**SHORT_REINFORCEMENT, **(trainer or {})},
            **changes,
        }
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.mark.parametrize(
    ("adapter", "changes"),
    [
        (None, {"procedure": "worst_of_n", "transform": "fixed_point"}),
        ({"r": 4, "target_modules": ["q_proj", "up_proj"]}, {"evaluation_judge": "refusal_string_match"}),
    ],
)
def test_a_run_makes_a_model_and_measures_it(
    settings: Callable[..., Path], tmp_path: Path, adapter: Any, changes: dict[str, Any]
) -> None:
    lines: list[str] = []
    done = train(
        "infalign", settings(adapter=adapter, held_out=3, **changes), tmp_path / "out", say=lines.append
    )
    name = "adapter_model.safetensors" if adapter else "model.safetensors"
    assert load_file(tmp_path / "out" / name)
    metrics = done.record["metrics"]
    procedure = "worst of 4" if "procedure" in changes else "best of 4"
    for figure in (f"win rate, {procedure}, by letters, which trained it", "KL, nats an answer"):
        assert isinstance(metrics[figure], float)
        low, high = metrics[f"{figure}, 95 % interval"]
        assert low <= metrics[figure] <= high
    if "evaluation_judge" in changes:
        assert metrics["win rate, by refusal_string_match"] == pytest.approx(0.5)
    assert any("calibrated on 60 answers of the reference to 5 prompts" in line for line in lines)
    logged = [entry for entry in done.record["log"] if "loss" in entry]
    assert len(logged) == 4 and all(0 <= entry["calibrated"] <= 1 for entry in logged)
    assert "2412.19792" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "adapter",
    [
        pytest.param(None, marks=pytest.mark.slow),
        {"r": 2, "lora_dropout": 0.1, "target_modules": ["q_proj"]},
    ],
)
def test_resumed_weights_are_equal_bit_by_bit(
    settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: Any
) -> None:
    path = settings(
        adapter=adapter, trainer={"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    )
    train("infalign", path, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train("infalign", path, tmp_path / "resumed")
    lines: list[str] = []
    train("infalign", path, tmp_path / "resumed", say=lines.append)
    assert "goes on after step 2" in lines and not any("prompts answered" in line for line in lines)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))


@pytest.mark.slow
def test_the_win_rate_over_the_reference_rises(settings: Callable[..., Path], tmp_path: Path) -> None:
    """Card check 10: E C rises above a half by more than three standard errors."""
    trainer = {
        "max_steps": 40,
        "save_strategy": "no",
        "num_generations": 8,
        "per_device_train_batch_size": 32,
        "learning_rate": 1e-2,
        "beta": 0.02,
    }
    path = settings(transform="identity", procedure="none", samples=50, trainer=trainer)
    done = train("infalign", path, tmp_path / "out")
    values = [entry["calibrated"] for entry in done.record["log"] if "calibrated" in entry][-10:]
    standard_error = np.sqrt(1 / 12 / 32 / len(values))  # of the mean of C under the reference
    assert np.mean(values) > 0.5 + 3 * standard_error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"temperature": 0.7}}, "temperature: this method does not take up that field"),
        ({"trainer": {"normalize_advantages": True}}, "normalize_advantages: this method does not take up"),
        ({"trainer": {"num_iterations": 2}}, "num_iterations: this method does not take up"),
        ({"trainer": {"use_vllm": True}}, "use_vllm: this method does not take up"),
        ({"trainer": {"beta": 0.0}}, "beta: must be positive"),
        ({"trainer": {"num_generations": 4}}, "are not whole groups|must be divisible"),
        ({"judge": "leters"}, "unknown judge 'leters'"),
        ({"transform": "cubic"}, "transform"),
        ({"t": 0.0}, "makes every answer alike"),
        ({"held_out": 2, "evaluation_samples": 3}, "fewer than the n = 4"),
        ({"samples": 1}, "samples"),
        ({"data": "nothing.jsonl"}, "no such file"),
    ],
)
def test_wrong_settings_are_named(
    settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrivetError, match=message):
        train("infalign", settings(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def rollout(row: int, *texts: str) -> Rollout:
    chat = [{"role": "user", "content": "?"}]
    return Rollout(Prompt(row, chat, (1,)), tuple(Answer((5,), text, 0.0, True) for text in texts))


def test_the_reward_is_calibrated_by_prompt_and_says_what_it_could_not_score() -> None:
    easy = (rollout(0, "aa", "a1", "11"), [1.0, 0.5, 0.0])
    hard = (rollout(1, "11", "1.", ".1"), [0.0, None, 0.0])
    none = (rollout(2, "a", "b"), [None, 1.0])
    table = reward_table([easy, hard, none])
    assert table.keys() == {0, 1}
    notes = calibration_notes(table, 3)
    assert "1 prompts left out: fewer than two answers could be scored" in notes[1]
    noted: dict[str, list[float]] = {}
    reward = CalibratedReward(LetterJudge(), table, lambda quantiles, samples: quantiles * samples)
    found = reward(
        [rollout(0, "ab", "a2"), rollout(1, "a22", "22")],
        lambda name, values: noted.update({name: list(values)}),
    )
    assert found[0] == pytest.approx([2.5, 1.5])  # 5/6 and 1/2 of three samples
    assert found[1] == pytest.approx([2.0, 1.0])
    assert noted["calibrated"] == pytest.approx([2.5 / 3, 0.5, 1.0, 0.5])


def test_win_rates_leave_out_what_has_too_few_scores() -> None:
    own, other = [rollout(0, "a", "b"), rollout(1, "1", "2")], [rollout(0, "1", "2"), rollout(1, "1", "2")]
    found = win_rates(own, other, LetterJudge(), "best_of_n", 2, "by letters")
    assert found["win rate, by letters"] == found["win rate, best of 2, by letters"] == 0.75
    found = win_rates(own, other, LetterJudge(), "best_of_n", 3, "by letters")
    assert found["win rate, best of 3, by letters"] == "could not be scored"
    assert found["win rate, best of 3, by letters: prompts left out"] == 2


def test_the_judge_is_the_one_that_ships_under_its_name() -> None:
    assert judges("letters").name == "letters"
