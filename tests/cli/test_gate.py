"""``trivet gate``: exit codes, what is printed, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trivet import cli
from trivet.models.engines import close_engines


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_engines()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.root, ["gate", *arguments])


def write(folder: Path, model: Path, *, n: int = 60, tokens: int = 3) -> tuple[str, str]:
    """A system of the tiny model and a file of prompts."""
    system, prompts = folder / "system.yaml", folder / "held_out.jsonl"
    system.write_text(f"model: {model}\nname: tiny\nmax_tokens: {tokens}\nsampling: {{temperature: 1.0}}\n")
    prompts.write_text("".join(f'{{"prompt": "question number {i}"}}\n' for i in range(n)))
    return str(system), str(prompts)


def test_no_solution_ends_with_1_and_says_what_is_guaranteed(tiny_model_folder: Path, tmp_path: Path) -> None:
    system, prompts = write(tmp_path, tiny_model_folder)
    # Random text holds no phrase of refusal, so that every answer counts as compliance.
    found = run(
        system, "--cost", "refusal_string_match", "--limit", "0.05", "--delta", "0.05", "--prompts", prompts
    )
    assert found.exit_code == 1, found.output
    lines = found.stdout.splitlines()
    assert lines[0] == "prompts needed at a limit of 0.05 and delta 0.05:"
    assert lines[1] == "  59 to pass with no harm seen at all"
    assert (
        "NO SOLUTION FOUND: the rate of harm as refusal_string_match sees it is at most 1.0000"
        in found.stdout
    )
    assert "What is guaranteed:" in lines and "What is not:" in lines
    assert "harm as this judge sees it" in found.stdout
    again = run(system, "--cost", "refusal_string_match", "--limit", "0.05", "--prompts", prompts)
    assert again.exit_code == 1 and "finished before" in again.stdout
    other = run(system, "--cost", "refusal_string_match", "--limit", "0.5", "--prompts", prompts)
    assert other.exit_code == 2
    assert "60 of the 60 prompts were used before, by a test of tiny@" in other.stderr


def test_a_pass_ends_with_0_in_json(tiny_model_folder: Path, tmp_path: Path) -> None:
    system, prompts = write(tmp_path, tiny_model_folder)
    ledger = tmp_path / "ledger"
    arguments = [system, "--cost", "refusal_string_match", "--cost-label", "full_refusal", "--limit", "0.2"]
    found = run(*arguments, "--prompts", prompts, "--split", "2", "--ledger", str(ledger), "--json")
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert result["passed"] and result["outcome"] == "pass" and result["n"] == 60
    assert (result["limit"], result["delta"], result["split"], result["test_delta"]) == (0.2, 0.05, 2, 0.025)
    assert result["system"].startswith("tiny@") and result["statement"][0].startswith("PASS: ")
    assert "prompts needed" in found.stderr and (ledger / "ledger.jsonl").is_file()
    assert not (tmp_path / "held_out.jsonl.gate").exists()


def test_settings_of_a_judge_as_json(tiny_model_folder: Path, tmp_path: Path) -> None:
    system, prompts = write(tmp_path, tiny_model_folder)
    cost = ["--cost", '{"judge": "refusal_string_match"}', "--prompts", prompts]
    assert run(system, *cost, "--limit", "1").exit_code == 0
    broken = run(system, "--cost", '{"judge": ', "--limit", "1", "--prompts", prompts)
    assert broken.exit_code == 2 and "no JSON" in broken.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--cost", "refusl", "--limit", "0.1"], "did you mean 'refusal'"),
        (["--cost", "refusal", "--limit", "1.5"], "1.5 is not in the range"),
        (["--cost", "refusal", "--limit", "0.1", "--delta", "0.5"], "0.5 is not in the range"),
        (["--cost", "refusal", "--limit", "0.1", "--bound", "wald"], "'wald' is not one of"),
        (["--cost", "harmlessness_head", "--limit", "0.1"], "give --cost-low and --cost-high"),
        (["--cost", "refusal", "--limit", "0.1", "--cost-low", "nan", "--cost-high", "1"], "finite"),
        (["--limit", "0.1"], "Missing option '--cost'"),
    ],
)
def test_a_users_mistake_ends_with_2_and_leaves_nothing(
    tiny_model_folder: Path, tmp_path: Path, arguments: list[str], what: str
) -> None:
    system, prompts = write(tmp_path, tiny_model_folder)
    found = run(system, *arguments, "--prompts", prompts)
    assert found.exit_code == 2 and what in found.stderr, found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "held_out.jsonl.gate").exists()


@pytest.mark.slow
def test_a_kill_keeps_the_answers_and_counts_as_a_look(tiny_model_folder: Path, tmp_path: Path) -> None:
    system, prompts = write(tmp_path, tiny_model_folder, n=300, tokens=200)
    command = [sys.executable, "-m", "trivet", "gate", system, "--cost", "refusal_string_match"]
    command += ["--cost-label", "full_refusal", "--prompts", prompts, "--json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    folder = tmp_path / "held_out.jsonl.gate"
    kept: list[str] = []
    with subprocess.Popen(
        [*command, "--limit", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        deadline = time.monotonic() + 120
        while not kept:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
            kept = [line for path in folder.glob("answers*") for line in path.read_text().split("\n")[:-1]]
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    other = subprocess.run([*command, "--limit", "0.9"], capture_output=True, text=True, env=environment)
    assert other.returncode == 2 and "was begun and not finished" in other.stderr
    again = subprocess.run([*command, "--limit", "0.1"], capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["n"] == 300
    (answers,) = folder.glob("answers*")
    assert set(kept) <= set(answers.read_text().split("\n"))
