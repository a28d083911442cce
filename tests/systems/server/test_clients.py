"""What people put before the server: ``inspect eval``, and the ``openai`` client with the embedded model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log
from tests.systems.server.conftest import Start, user

from trivet.systems import System

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


@pytest.mark.slow
def test_inspect_eval(start: Start, tiny: System, tmp_path: Path) -> None:
    running = start(tiny)
    (tmp_path / "plain.py").write_text(TASK, encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("inspect")), "eval", "plain.py", "--model",
        "openai-api/served/tiny", "--max-tokens", "12", "--display", "none", "--log-dir", "logs",
    ]  # fmt: skip
    environment = {**os.environ, "SERVED_BASE_URL": running.url, "SERVED_API_KEY": "none"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log = read_eval_log(list_eval_logs(str(tmp_path / "logs"))[0].name)
    assert log.status == "success" and log.samples is not None
    expected = tiny.answer_sync("Question 0?", seed=7, max_tokens=12, sampling={"temperature": 1.0})
    first = next(sample for sample in log.samples if sample.id == "q0")
    assert first.output.completion == expected.text
    assert first.output.usage is not None
    assert first.output.usage.output_tokens == expected.usage.completion_tokens


@pytest.mark.model
def test_the_embedded_model_answers(start: Start, embedded_model: str) -> None:
    system = System.load({"model": embedded_model, "max_tokens": 24})
    client = start(system).client(timeout=300)
    question = user("What is the capital of France? Answer in one sentence.")
    plain = client.chat.completions.create(model=system.name, messages=question)
    assert "Paris" in (plain.choices[0].message.content or "")
    stream = client.chat.completions.create(model=system.name, messages=question, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == plain.choices[0].message.content
    continued = client.completions.create(model=system.name, prompt="The capital of France is", max_tokens=4)
    assert "Paris" in continued.choices[0].text
