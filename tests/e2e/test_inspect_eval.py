"""``inspect eval`` of a task that is not ours, with a system as the model, as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log

TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes


@task
def plain():
    samples = [Sample(id=f"q{n}", input=f"Question {n}?", target="a") for n in range(4)]
    return Task(dataset=samples, scorer=includes(), config=GenerateConfig(temperature=1.0, seed=7))
"""


def inspect_eval(folder: Path, model: str, backend: str) -> EvalLog:
    command = [
        str(Path(sys.executable).with_name("inspect")), "eval", "plain.py", "--model", model, "--epochs", "2",
        "--max-tokens", "12", "--display", "none", "--max-connections", "8", "--log-dir", f"logs-{backend}",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "INSPECT_ASYNC_BACKEND": backend}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return read_eval_log(list_eval_logs(str(folder / f"logs-{backend}"))[0].name)


@pytest.mark.slow
def test_epochs_differ_and_both_event_loops_give_the_same_answers(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain.py").write_text(TASK, encoding="utf-8")
    (tmp_path / "kind.yaml").write_text(
        f"model: {tiny_model_folder}\nsystem_prompt: Be kind.\n", encoding="utf-8"
    )
    answers = {}
    for backend in ("asyncio", "trio"):
        log = inspect_eval(tmp_path, "trivet/kind.yaml", backend)
        assert log.status == "success"
        assert log.samples is not None and len(log.samples) == 8
        answers[backend] = {(s.id, s.epoch): s.output.completion for s in log.samples}
        for number in range(4):
            assert answers[backend][f"q{number}", 1] != answers[backend][f"q{number}", 2]
        outputs = [sample.output for sample in log.samples]
        assert len({output.model for output in outputs}) == 1
        assert outputs[0].model.startswith("kind@")
        assert len({(output.metadata or {})["seed"] for output in outputs}) == 8
    assert answers["asyncio"] == answers["trio"]
