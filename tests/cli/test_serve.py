"""``trivet serve`` as a user types it."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from trivet.cli.serve import command


def launch(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "trivet", "serve", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )


def lines_until_ready(process: "subprocess.Popen[str]") -> list[str]:
    """What it says until it serves."""
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("Serving"):
        line = process.stderr.readline()
        assert line, f"it ended: {lines}"
        lines.append(line.strip())
    return lines


def ask(client: openai.OpenAI, name: str) -> Any:
    return client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )


@pytest.mark.slow
def test_two_systems_a_key_a_warning_and_a_stop(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kind.yaml").write_text(f"model: {tiny_model_folder}\nsystem_prompt: Be kind.\n")
    (tmp_path / "plain.yaml").write_text(f"model: {tiny_model_folder}\n")
    process = launch(
        tmp_path, "kind.yaml", "plain.yaml", "--port", "0", "--host", "0.0.0.0", "--api-key-env", "MY_KEYS",
        MY_KEYS="secret",
    )  # fmt: skip
    try:
        lines = lines_until_ready(process)
        assert not any("Warning" in line for line in lines)
        found = re.fullmatch(r"Serving kind, plain at http://0\.0\.0\.0:(\d+)/v1; Ctrl-C stops\.", lines[-1])
        assert found
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{found[1]}/v1", api_key="secret", max_retries=0
        ) as client:
            kind, plain = ask(client, "kind"), ask(client, "plain")
            assert kind.usage.prompt_tokens > plain.usage.prompt_tokens
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert out == "" and errors == ""
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_server_that_everybody_reaches_warns(tiny_model_folder: Path, tmp_path: Path) -> None:
    process = launch(tmp_path, str(tiny_model_folder), "--port", "0", "--host", "0.0.0.0")
    try:
        assert any("whoever reaches this machine" in line for line in lines_until_ready(process))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_a_taken_port_is_told_before_the_model_is_read(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = ["nowhere-model", "--port", str(taken.getsockname()[1])]
        result = CliRunner().invoke(command, arguments)
    assert result.exit_code != 0
    assert "cannot listen at 127.0.0.1" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--api-key-env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE holds no key"),
        (["--api-key-file", "gone.txt"], "cannot be read"),
        (["--host", "192.0.2.1"], "cannot listen at 192.0.2.1"),
    ],
)
def test_mistakes(arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, ["some-model", "--port", "0", *arguments])
    assert result.exit_code != 0
    assert says in str(result.exception)
