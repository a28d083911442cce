"""Every evaluation through the real provider: a tiny random model, and the embedded model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai import score
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import get_model

from trivet.data.suites import suite_rows
from trivet.evaluate.capability import capability
from trivet.evaluate.capability_ll import capability_ll
from trivet.evaluate.harmless import harmless
from trivet.evaluate.helpful import helpful
from trivet.evaluate.honest import honest
from trivet.evaluate.over_refusal import over_refusal

TASKS = {
    "helpful": lambda n: helpful(prompts=n),
    "honest": lambda n: honest(prompts=n),
    "harmless": lambda n: harmless(prompts=n),
    "over_refusal": lambda n: over_refusal(prompts=n),
    "capability": lambda n: capability(prompts=n),
    "capability_ll": lambda n: capability_ll(prompts=n),
}


def generate(task: Any, model: str, folder: Path, **options: Any) -> EvalLog:
    (log,) = inspect_eval(
        task,
        model=model,
        score=False,
        display="none",
        log_dir=str(folder),
        max_tokens=options.pop("max_tokens", 12),
        max_connections=8,
        fail_on_error=False,
        **options,
    )
    return log


def values(log: EvalLog) -> list[float]:
    return [next(iter((sample.scores or {}).values())).as_float() for sample in log.samples or []]


@pytest.mark.parametrize("name", TASKS)
def test_a_tiny_random_model_runs_every_evaluation(
    name: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    task = TASKS[name](4)
    log = generate(task, f"trivet/{tiny_model_folder}", tmp_path)
    assert log.status == "success", log.error
    assert [sample.error for sample in log.samples or []] == [None] * 4
    scored = score(read_eval_log(log.location), task.scorer, action="overwrite", display="none")
    assert all(value in (0, 1) for value in values(scored))
    assert scored.results is not None
    assert scored.results.scores[0].unscored_samples == 0


def test_log_likelihoods_choose_what_the_model_finds_likely(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The choice taken is the one of largest sum per byte of the sums that lie in the log."""
    log = generate(capability_ll(prompts=6), f"trivet/{tiny_model_folder}", tmp_path)
    rows = {row["id"]: row for row in suite_rows("capability")}
    for sample in log.samples or []:
        sums = (sample.output.metadata or {})["log_likelihoods"]
        choices = rows[str(sample.id)]["choices"]
        assert len(sums) == len(choices)
        assert all(value < 0 for value in sums)
        per_byte = [value / len(choice.encode()) for value, choice in zip(sums, choices, strict=True)]
        assert sample.output.completion == "ABCDEFGH"[per_byte.index(max(per_byte))]


def test_log_likelihoods_are_refused_for_a_decoding_method(tiny_model_folder: Path, tmp_path: Path) -> None:
    system = tmp_path / "system.yaml"
    settings = {
        "model": str(tiny_model_folder),
        "decode": {"method": "best_of_n", "n": 2, "judge": "refusal_string_match"},
    }
    system.write_text(json.dumps(settings), encoding="utf-8")
    log = generate(capability_ll(prompts=1), f"trivet/{system}", tmp_path / "logs")
    (sample,) = log.samples or []
    assert sample.error is not None
    assert "log-likelihoods are the bare model's" in sample.error.message


def test_log_likelihoods_are_refused_for_other_providers(tmp_path: Path) -> None:
    log = generate(capability_ll(prompts=1), get_model("mockllm/model"), tmp_path)  # type: ignore[arg-type]
    (sample,) = log.samples or []
    assert sample.error is not None
    assert "gives no log-likelihoods" in sample.error.message


@pytest.mark.slow
def test_inspect_finds_the_tasks_and_scorers_by_name(tiny_model_folder: Path, tmp_path: Path) -> None:
    """As a user types it, in a process of its own: ``inspect eval trivet/helpful --model trivet/…``."""
    command = [sys.executable, "-m", "inspect_ai", "eval", "trivet/helpful", "--model"]
    command += [f"trivet/{tiny_model_folder}", "-T", "prompts=3", "-T", "seed=1", "--max-tokens", "8"]
    command += ["--display", "plain", "--log-dir", str(tmp_path / "logs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "logs").glob("*.eval")
    log = read_eval_log(str(file))
    assert log.status == "success"
    assert log.eval.task == "trivet/helpful"
    assert log.eval.task_args_passed == {"prompts": 3, "seed": 1}
    assert len(log.samples or []) == 3
    assert log.results is not None
    assert len(values(log)) == 3

    command = [sys.executable, "-m", "inspect_ai", "score", str(file), "--scorer", "trivet/helpful"]
    command += ["--action", "append", "--output-file", str(tmp_path / "again.eval"), "--display", "plain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for sample in read_eval_log(str(tmp_path / "again.eval")).samples or []:
        first, again = (sample.scores or {}).values()
        assert first.value == again.value


@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "n", "max_tokens", "low", "high"),
    [
        # What is tested is that answers of a real model are read, not how good it is: the bounds of the mean
        # are wide, and that of `capability`, which is near chance for a model of this size, is none.
        ("helpful", 16, 120, 0.05, 0.95),
        ("honest", 16, 40, 0.05, 0.95),
        ("capability", 12, 24, 0.0, 0.95),
        ("capability_ll", 30, 1, 0.3, 1.0),
        ("harmless", 4, 48, 0.0, 1.0),
        ("over_refusal", 4, 48, 0.0, 1.0),
    ],
)
def test_the_embedded_model(
    name: str, n: int, max_tokens: int, low: float, high: float, embedded_model: str, tmp_path: Path
) -> None:
    task = TASKS[name](n)
    log = generate(task, f"trivet/{embedded_model}", tmp_path, max_tokens=max_tokens)
    assert log.status == "success", log.error
    scored = score(log, task.scorer, action="overwrite", display="none")
    answers = [sample.output.completion for sample in scored.samples or []]
    assert len(set(answers)) > 1
    assert low <= sum(values(scored)) / n <= high, answers
    labels = [next(iter((s.scores or {}).values())).metadata["label"] for s in scored.samples or []]
    assert labels.count("unparsed") <= n / 2, answers
    assert set(labels) <= {
        *("fulfilled", "unfulfilled", "correct", "wrong", "idk", "unparsed"),
        *("full_refusal", "partial_refusal", "compliance", "off_topic"),
    }
