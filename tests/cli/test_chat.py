"""``trivet chat``, in a pipe and in a terminal."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trivet import cli
from trivet.models.engines import close_engines


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_engines()


def chat(text: str, *arguments: str) -> Any:
    return CliRunner().invoke(cli.root, ["chat", *arguments], input=text)


def test_each_line_of_a_pipe_is_answered(tiny_model_folder: Path) -> None:
    result = chat("Hello\n/reset\nHello\n", str(tiny_model_folder), "--max-tokens", "8")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "Ctrl-C" not in result.stdout


def test_the_conversation_is_kept_until_reset(tiny_model_folder: Path) -> None:
    def last(text: str) -> str:
        return str(chat(text, str(tiny_model_folder), "--max-tokens", "6").stdout)

    once = last("Hello\n")
    assert last("Hello\n/reset\nHello\n") == once + once  # greedy: the same question, the same answer
    assert last("Hello\nHello\n") != once + once
    assert last("Hello\n/exit\nHello\n") == once
    assert last("\n\n") == ""


def test_control_sequences_of_a_model_do_not_reach_the_terminal(tiny_model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    escape, bell = (tokenizer(text)["input_ids"][0] for text in ("\x1b", "\x07"))
    system = tiny_model_folder.parent / "escape.yaml"
    bias = json.dumps({escape: 100, bell: 100})
    system.write_text(
        f"model: {tiny_model_folder}\nmax_tokens: 20\n"
        f"sampling: {{temperature: 10, top_k: 2, logit_bias: {bias}}}\n".replace('"', ""),
        encoding="utf-8",
    )
    result = chat("Hello\n", str(system))
    assert result.exit_code == 0, result.output
    assert "\ufffd" in result.stdout
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", result.stdout)


def test_reasoning_is_shown_and_its_markers_are_not(tiny_model_folder: Path) -> None:
    system = tiny_model_folder.parent / "thinker.yaml"
    system.write_text(
        f"model: {tiny_model_folder}\nmax_tokens: 30\nreasoning: {{start: '(', end: ')'}}\n"
        "sampling: {temperature: 2}\n",
        encoding="utf-8",
    )
    assert "(" not in chat("Hello\n" * 3, str(system)).stdout


def test_a_wrong_system_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("modle: x\n", encoding="utf-8")
    result = chat("", str(tmp_path / "s.yaml"))
    assert result.exit_code == 2
    assert "did you mean 'model'" in result.stderr


def test_a_prompt_that_is_too_long_is_a_message(tiny_model_folder: Path) -> None:
    result = chat("word " * 600 + "\n", str(tiny_model_folder))
    assert result.exit_code == 2
    assert "context" in result.stderr


def piped(*arguments: str) -> "subprocess.Popen[bytes]":
    """A chat whose messages come through a pipe, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "trivet", "chat", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8:surrogateescape"},
    )  # fmt: skip


@pytest.mark.slow
def test_a_message_that_is_not_utf8_is_a_message(tiny_model_folder: Path) -> None:
    with piped(str(tiny_model_folder)) as process:
        _, errors = process.communicate(b"caf\xe9\n", timeout=60)
    assert process.returncode == 2
    assert errors.decode().strip() == "Error: stdin: the message is not UTF-8\n  → send UTF-8 text"


@pytest.mark.slow
def test_ctrl_c_in_a_pipe_ends_with_130(tiny_model_folder: Path) -> None:
    system = tiny_model_folder.parent / "endless-pipe.yaml"
    system.write_text(
        f"model: {tiny_model_folder}\nmax_tokens: 480\nsampling: {{logit_bias: {{2: -100}}}}\n",
        encoding="utf-8",
    )
    with piped(str(system)) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(b"Hello\n" + b"/reset\nHello\n" * 500)
        process.stdin.flush()
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        errors = process.stderr.read().decode()
    assert process.returncode == 130, errors
    assert errors.strip() == "Interrupted; what was finished is kept."


class Terminal:
    """A chat in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trivet", "chat", *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TERM": "dumb", "COLUMNS": "200"},
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.master, self.seen = master, ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, *texts: str, seconds: float = 60) -> str:
        """Read until one of the texts comes; returns it."""
        deadline = time.monotonic() + seconds
        while not (found := [text for text in texts if text in self.seen]):
            assert time.monotonic() < deadline, f"never saw {texts} in {self.seen[-500:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
        first = min(found, key=self.seen.index)
        self.seen = self.seen.partition(first)[2]
        return first

    def read_on(self) -> None:
        """Read until something more comes."""
        while not self.seen.strip():
            self.seen += os.read(self.master, 65536).decode("utf-8", "replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_twice_leaves(tiny_model_folder: Path) -> None:
    system = tiny_model_folder.parent / "endless.yaml"
    system.write_text(
        f"model: {tiny_model_folder}\nmax_tokens: 480\nsampling: {{logit_bias: {{2: -100}}}}\n",
        encoding="utf-8",
    )
    terminal = Terminal(str(system))
    try:
        terminal.wait_for("twice leaves")
        terminal.wait_for("> ")
        for _ in range(5):  # a fast machine may finish the answer before the key arrives
            terminal.type("Hello\n")
            terminal.wait_for("Hello\r\n")
            terminal.read_on()
            terminal.type("\x03")
            if terminal.wait_for("(stopped", "length\r\n", "Ctrl-C again") == "(stopped":
                break
            terminal.type("/reset\n")
            terminal.wait_for("forgotten")
        else:
            pytest.fail("Ctrl-C never stopped an answer")
        terminal.type("/reset\n")
        terminal.wait_for("forgotten")
        terminal.wait_for("> ")
        time.sleep(1)  # CPython misses a signal between writing its prompt and waiting for a key
        terminal.type("\x03")
        terminal.wait_for("again leaves")
        terminal.wait_for("> ")
        time.sleep(1)  # CPython misses a signal between writing its prompt and waiting for a key
        terminal.type("\x03")
        assert terminal.process.wait(timeout=30) == 0
    finally:
        terminal.close()
