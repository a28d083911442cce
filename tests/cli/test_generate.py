"""``trivet generate``: the command around the file of answers."""

import json
import os
import resource
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
    return CliRunner().invoke(cli.root, ["generate", *arguments])


def test_answers_then_nothing_left_to_do(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompts, output = tmp_path / "p.jsonl", tmp_path / "a.jsonl"
    prompts.write_text('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 2}\n', encoding="utf-8")
    arguments = [
        "--input", str(prompts), "--output", str(output), "--system", str(tiny_model_folder),
        "--max-tokens", "4", "--temperature", "1", "--seed", "5", "--json",
    ]  # fmt: skip
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    summary = json.loads(first.stdout)
    assert (summary["answers"], summary["kept"]) == (2, 0)
    assert 0 < summary["output_tokens"] <= 8
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [1, 2]
    assert rows[0]["system"] == summary["system"]
    assert rows[0]["settings"] == {"seed": 5, "max_tokens": 4, "sampling": {"temperature": 1.0}}
    again = run(*arguments)
    assert json.loads(again.stdout)["kept"] == 2
    assert "tokens/s" in first.stderr


def test_a_users_mistake_ends_with_2_and_one_message(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"promt": "b"}\n', encoding="utf-8")
    bad_row = run("--input", str(prompts), "--output", str(tmp_path / "a.jsonl"))
    assert bad_row.exit_code == 2
    assert "p.jsonl, line 2" in bad_row.stderr and "Traceback" not in bad_row.stderr
    prompts.write_text('{"prompt": "a"}\n', encoding="utf-8")
    no_model = run(
        "--input", str(prompts), "--output", str(tmp_path / "a.jsonl"), "--system", str(tmp_path / "none")
    )
    assert no_model.exit_code == 2
    assert not (tmp_path / "a.jsonl").exists()
    unknown = run(
        "--input", str(prompts), "--output", str(tmp_path / "a.jsonl"),
        "--system", str(tiny_model_folder), "--engine", "torhc",
    )  # fmt: skip
    assert unknown.exit_code == 2
    assert "did you mean 'torch'" in unknown.stderr


def _many_prompts(folder: Path, tokens: int, system: Path) -> tuple[list[str], Path]:
    """A command that answers 300 prompts, and the file it writes to."""
    prompts, output = folder / "p.jsonl", folder / "a.jsonl"
    prompts.write_text("".join(f'{{"prompt": "question {n}"}}\n' for n in range(300)), encoding="utf-8")
    command = [sys.executable, "-m", "trivet", "generate", "--input", str(prompts), "--output", str(output)]
    return [*command, "--system", str(system), "--max-tokens", str(tokens)], output


def _whole_rows(output: Path) -> list[str]:
    """The finished lines of an answers file; the last may be cut short."""
    return output.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_answered(tiny_model_folder: Path, tmp_path: Path) -> None:
    command, output = _many_prompts(tmp_path, 8, tiny_model_folder)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    full = subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=limit)
    assert full.returncode == 2
    assert f"Error: {output}: cannot write" in full.stderr
    assert "finished answers are kept" in full.stderr
    assert "Traceback" not in full.stderr
    kept = _whole_rows(output)
    assert kept
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["kept"] == len(kept)
    assert set(kept) <= set(_whole_rows(output))


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_answered(tiny_model_folder: Path, tmp_path: Path) -> None:
    command, output = _many_prompts(tmp_path, 400, tiny_model_folder)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, start_new_session=True, env=environment
    ) as process:
        deadline = time.monotonic() + 60
        while not (output.exists() and _whole_rows(output)):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.decode().rstrip().endswith("Interrupted; what was finished is kept.")
    assert "Traceback" not in said.decode()
    assert 0 < len(_whole_rows(output)) < 300
