"""HC-RLHF (card 08): whole runs on a tiny model, resuming bit by bit, NSF, wrong settings."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.train.constrained_runs import WORDS, report_of, write_prompts
from tests.train.test_checkpoints import equal, stop_after, weights

from trivet.cli import root
from trivet.errors import ModelError, TrivetError
from trivet.models.names import resolve_model
from trivet.train.checkpoints import checkpoints
from trivet.train.constrained_trainer import STATE, ConstrainedTrainer
from trivet.train.running import train

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("judges_of_tests"),
]


@pytest.mark.parametrize(
    "adapter", [pytest.param(None, marks=pytest.mark.slow), {"r": 4, "target_modules": ["q_proj", "up_proj"]}]
)
def test_a_policy_within_the_limit_is_returned_with_its_report(
    constrained_settings: Callable[..., Path], tmp_path: Path, adapter: Any
) -> None:
    lines: list[str] = []
    done = train(
        "high_confidence_rlhf", constrained_settings(adapter=adapter), tmp_path / "out", say=lines.append
    )
    assert done.no_solution is None and weights(tmp_path / "out")
    report = report_of(tmp_path / "out")
    assert report["passed"] and report["outcome"] == "pass" and report["exact"]
    assert (report["n"], report["tau"], report["delta"], report["test_delta"]) == (14, 0.95, 0.1, 0.1)
    assert 0 <= report["mean"] < report["bound"] <= 0.95 and report["std"] > 0
    assert report["test"].startswith("betting")
    said = " ".join(report["statement"])
    for text in (
        "PASS",
        "is returned with probability at most 0.1",
        "as letters sees it",
        "learned",
        "other prompts",
        "each answer",
        "temperature 1",
    ):
        assert text in said
    assert [one["step"] for one in report["candidates"]] == [2, 4]
    assert report["candidate"] in report["candidates"]
    assert report["reference_costs"]["answers"] == 6 and "buffer" in report["n_c"]
    logged = [entry for entry in done.record["log"] if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:
        assert {"mean_reward", "cost", "predicted_bound", "kappa", "lambda", "kl"} <= entry.keys()
        assert entry["cost"] == pytest.approx(entry["mean_reward"], abs=1e-6)  # the same judge here
        assert entry["predicted_bound"] > 0 and entry["kappa"] > 0
    assert logged[0]["lambda"] != logged[1]["lambda"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2506.08266" in card and "Guaranteed" in card and "Not guaranteed" in card
    written = next(index for index, line in enumerate(lines) if "limit and delta are written" in line)
    assert written < next(index for index, line in enumerate(lines) if "for the safety test" in line)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_resumed_runs_are_equal_bit_by_bit_with_lambda_and_buffer(
    constrained_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Weights, λ, the buffer and the test's figures; the interruption comes after the costs of a step."""
    path = constrained_settings(
        adapter={"r": 2, "lora_dropout": 0.1, "target_modules": ["q_proj"]},
        trainer={"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "save_steps": 1},
        ledger="one",
    )
    whole = train("high_confidence_rlhf", path, tmp_path / "whole")
    (tmp_path / "one").rename(tmp_path / "kept")
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train("high_confidence_rlhf", path, tmp_path / "resumed")
    (*_, left) = checkpoints(tmp_path / ".resumed.training" / "checkpoints")
    state = json.loads((left / STATE).read_text())
    assert len(state["costs"]) == min(16, 6 * step)
    logged = [entry for entry in whole.record["log"] if "loss" in entry]
    assert math.exp(state["log_multiplier"]) == pytest.approx(logged[step - 1]["lambda"], rel=1e-6)
    resumed = train("high_confidence_rlhf", path, tmp_path / "resumed")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    assert report_of(tmp_path / "whole") == report_of(tmp_path / "resumed")
    again = [entry for entry in resumed.record["log"] if "loss" in entry]
    for name in ("loss", "lambda", "predicted_bound", "kappa", "cost"):
        assert [entry[name] for entry in again] == [entry[name] for entry in logged]


def test_no_solution_leaves_a_report_and_nothing_that_loads(
    constrained_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that the costs do not keep; ``trivet train`` ends with 1, also when it is asked again."""
    path = constrained_settings(limit=0.3)
    result = CliRunner().invoke(root, ["train", "high_confidence_rlhf", str(path), str(tmp_path / "out")])
    assert result.exit_code == 1, result.output
    assert "NO SOLUTION FOUND" in result.output and "above the limit 0.3" in result.output
    report = report_of(tmp_path / "out")
    assert not report["passed"] and report["bound"] > 0.3 and report["outcome"] == "no solution found"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "README.md",
        "training.json",
        "safety_test.json",
    }
    assert "No solution found: this folder holds no model" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ModelError):
        resolve_model(str(tmp_path / "out"))
    shutil.rmtree(tmp_path / "out")  # the verdict is in the ledger: nothing is trained for it again
    monkeypatch.setattr(ConstrainedTrainer, "train", None)
    gone = train("high_confidence_rlhf", path, tmp_path / "out")
    assert gone.no_solution is not None and "NO SOLUTION FOUND" in gone.no_solution
    read_out = report_of(tmp_path / "out")
    assert {name: read_out[name] for name in ("bound", "mean", "n")} == {
        name: report[name] for name in ("bound", "mean", "n")
    }
    assert any("Read out of the ledger" in line for line in read_out["statement"])
    assert len(list((tmp_path / "out").iterdir())) == 3
    again = CliRunner().invoke(
        root, ["train", "high_confidence_rlhf", str(path), str(tmp_path / "out"), "--json"]
    )
    assert again.exit_code == 1 and "NO SOLUTION FOUND" in again.output


@pytest.mark.slow
def test_costs_without_a_range_have_student_alone_and_say_so(
    constrained_settings: Callable[..., Path], tmp_path: Path
) -> None:
    path = constrained_settings(
        cost_low=None, cost_high=None, test="student", candidates=1, trainer={"max_steps": 1}
    )
    train("high_confidence_rlhf", path, tmp_path / "out")
    report = report_of(tmp_path / "out")
    assert not report["exact"] and "approximate" in report["test"]
    assert any("Student's bound is approximate" in line for line in report["statement"])
    assert any("approximately, a policy" in line for line in report["statement"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": -0.5}, "bounds nothing"),
        ({"limit": 1.0}, "bounds nothing"),
        ({"limit": 7}, "costs are between 0 and 1"),
        ({"limit": 0.0}, "no solution can be found"),  # check 10: an impossible limit
        ({"limit": 0.05}, "prompts are the fewest that can pass"),
        ({"cost_low": None}, "cost_low and cost_high come together"),
        ({"cost_low": None, "cost_high": None}, "no range"),
        ({"test": "clopper_pearson"}, "needs costs of 0 and 1"),
        ({"delta": 0.5}, "delta"),
        ({"held_out": None}, "give held_out"),
        ({"validation": "prompts.jsonl"}, "give held_out"),
        ({"safety": 1}, "at least 2 prompts"),
        ({"safety": 40}, "leaves none to train on"),
        ({"trainer": {"reward_clip_range": [-1, 1]}}, "return_clip"),
        (
            {"cost": "refusal_string_match", "cost_low": None, "cost_high": None, "cost_labels": ["bad"]},
            "no label 'bad'",
        ),
        ({"reward": "leters"}, "unknown judge"),
    ],
)
def test_wrong_settings_are_named(
    constrained_settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrivetError, match=message):
        train("high_confidence_rlhf", constrained_settings(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_trivial_limit_is_passed(constrained_settings: Callable[..., Path], tmp_path: Path) -> None:
    """Check 10: the limit is above the largest cost there can be."""
    plain = {"cost_low": None, "cost_high": None, "candidates": 1, "trainer": {"max_steps": 1}}
    path = constrained_settings(limit=9.0, test="student", **plain)
    assert train("high_confidence_rlhf", path, tmp_path / "out").no_solution is None


@pytest.mark.model
def test_a_run_of_the_embedded_model(embedded_model: str, tmp_path: Path) -> None:
    """One step, with compliance as cost: a report either way."""
    write_prompts(tmp_path / "prompts.jsonl", WORDS, 2)
    settings = {
        "model": embedded_model,
        "data": "prompts.jsonl",
        "held_out": 2,
        "safety": 6,
        "candidates": 1,
        "reward": "letters",
        "cost": "refusal_string_match",
        "limit": 0.9,
        "delta": 0.4,
        "adapter": {"r": 4, "target_modules": ["q_proj"]},
        "trainer": {
            "max_steps": 1,
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_completion_length": 12,
            "learning_rate": 1e-4,
        },
    }
    done = train("high_confidence_rlhf", settings, tmp_path / "out", base=tmp_path)
    report = report_of(tmp_path / "out")
    assert report["n"] == 6 and report["test"] == "Clopper-Pearson"
    assert (done.no_solution is None) == report["passed"] == (tmp_path / "out/adapter_config.json").is_file()
