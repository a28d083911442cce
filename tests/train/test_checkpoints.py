"""Nothing is lost: kills at any instant, losses and gradients that are not finite, several processes."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trivet.errors import TrainingError
from trivet.train.checkpoints import ResumableTrainer, checkpoints
from trivet.train.running import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
RUN = """
from pathlib import Path
from trivet.train.running import train
train({!r}, Path({!r}), Path({!r}))
"""


def command(settings: Path, out: Path, method: str = "dpo") -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", RUN.format(method, str(settings), str(out))]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if (folder / "adapter_config.json").is_file() else "model.safetensors"
    return load_file(folder / name)


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def losses_of(folder: Path) -> list[float]:
    log = json.loads((folder / "training.json").read_text())["log"]
    return [entry["loss"] for entry in log if "loss" in entry]


def begun(settings: Path, out: Path, *, until_checkpoint: bool) -> "subprocess.Popen[bytes]":
    """A run, just begun or with its first checkpoint."""
    process = subprocess.Popen(command(settings, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = out.parent / f".{out.name}.training" / "checkpoints"
    while until_checkpoint and process.poll() is None and not checkpoints(folder):
        time.sleep(0.02)
    return process


def killed_until_done(
    settings: Path, out: Path, delays: list[float], *, until_checkpoint: bool = False
) -> int:
    """Run, kill -9 after each delay (see ``begun`` for from when), then run to the end; returns how many
    runs were killed."""
    killed = 0
    for delay in delays:
        process = begun(settings, out, until_checkpoint=until_checkpoint)
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    subprocess.run(command(settings, out), check=True, capture_output=True)
    return killed


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The run dies like a process in the middle of step ``step`` + 1."""
    plain = ResumableTrainer.training_step

    def dying(self: ResumableTrainer, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return plain(self, *arguments, **options)

    monkeypatch.setattr(ResumableTrainer, "training_step", dying)


@pytest.mark.parametrize("adapter", [None, {"r": 2, "lora_dropout": 0.1, "target_modules": ["q_proj"]}])
@pytest.mark.parametrize("step", [1, 3, 5])
@pytest.mark.slow
def test_resumed_weights_are_equal_bit_by_bit(
    write_settings: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    adapter: Any,
    step: int,
) -> None:
    trainer = {"disable_dropout": False, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    settings = write_settings(adapter=adapter, trainer=trainer)
    train("dpo", settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train("dpo", settings, tmp_path / "resumed")
    lines: list[str] = []
    train("dpo", settings, tmp_path / "resumed", say=lines.append)
    assert any("goes on after step" in line for line in lines) == (step > 1)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    losses = [losses_of(tmp_path / name) for name in ("whole", "resumed")]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_killed_runs_end_with_the_same_weights(write_settings: Callable[..., Path], tmp_path: Path) -> None:
    settings = write_settings(trainer={"max_steps": 40, "save_steps": 1})
    started = time.monotonic()
    subprocess.run(command(settings, tmp_path / "whole"), check=True, capture_output=True)
    whole = time.monotonic() - started
    delays = [random.Random(7).uniform(0.3, 1.0) * whole for _ in range(3)]
    assert killed_until_done(settings, tmp_path / "killed", delays) >= 1
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_killed_at_twenty_instants(write_settings: Callable[..., Path], tmp_path: Path) -> None:
    settings = write_settings(trainer={"max_steps": 60, "save_steps": 1})
    started = time.monotonic()
    subprocess.run(command(settings, tmp_path / "whole"), check=True, capture_output=True)
    whole = time.monotonic() - started
    numbers = random.Random(11)
    delays = [numbers.uniform(0.4, 0.95) * whole for _ in range(20)]
    assert killed_until_done(settings, tmp_path / "killed", delays) >= 5
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.full
@pytest.mark.model
@pytest.mark.timeout(3600)
def test_the_embedded_model_is_killed_once(
    write_settings: Callable[..., Path], tmp_path: Path, embedded_model: str
) -> None:
    trainer = {"max_steps": 6, "save_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-4}
    settings = write_settings(model=embedded_model, adapter={"r": 4}, trainer=trainer)
    process = begun(settings, tmp_path / "whole", until_checkpoint=True)
    seen = time.monotonic()
    assert process.wait() == 0
    delay = random.Random(13).uniform(0.0, 0.8) * (time.monotonic() - seen)
    assert killed_until_done(settings, tmp_path / "killed", [delay], until_checkpoint=True) == 1
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    losses = [losses_of(tmp_path / name) for name in ("whole", "killed")]
    assert len(losses[0]) == 6 and losses[0] == losses[1]


def test_a_half_written_checkpoint_does_not_count(
    write_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = write_settings()
    train("dpo", settings, tmp_path / "whole")
    plain = ResumableTrainer._save_optimizer_and_scheduler

    def dying(self: ResumableTrainer, folder: str) -> None:
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        plain(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableTrainer, "_save_optimizer_and_scheduler", dying)
        with pytest.raises(KeyboardInterrupt):
            train("dpo", settings, tmp_path / "resumed")
    left = tmp_path / ".resumed.training" / "checkpoints"
    assert [path.name for path in checkpoints(left)] == ["checkpoint-2"]
    train("dpo", settings, tmp_path / "resumed")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))


def spoil(monkeypatch: pytest.MonkeyPatch, step: int, what: str) -> None:
    plain = ResumableTrainer.check_loss

    def spoiled(self: ResumableTrainer, loss: torch.Tensor, rows: Any) -> None:
        if self.state.global_step == step:
            if what == "loss":
                loss = loss * torch.nan
            else:
                loss.register_hook(lambda gradient: gradient * torch.inf)
        plain(self, loss, rows)

    monkeypatch.setattr(ResumableTrainer, "check_loss", spoiled)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    write_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    settings = write_settings()
    train("dpo", settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        spoil(patch, 3, what)
        with pytest.raises(TrainingError, match=r"in step 4; the batch has the rows \d+, \d+, \d+, \d+"):
            train("dpo", settings, tmp_path / "bad")
    left = checkpoints(tmp_path / ".bad.training" / "checkpoints")
    assert left[-1].name == "checkpoint-3"
    assert not (tmp_path / "bad").exists()
    train("dpo", settings, tmp_path / "bad")  # the cause is gone: it goes on as if nothing had been
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "bad"))


def test_other_settings_do_not_go_on_with_a_run(
    write_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train("dpo", write_settings(), tmp_path / "out")
    with pytest.raises(TrainingError, match="was interrupted here"):
        train("dpo", write_settings(trainer={"learning_rate": 1e-5}), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "sft"])  # a mean over pairs, and one over tokens
def test_two_processes_have_the_losses_of_one(
    write_settings: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    one = write_settings("one.yaml", trainer={"max_steps": 3, "per_device_train_batch_size": 4})
    two = write_settings("two.yaml", trainer={"max_steps": 3, "per_device_train_batch_size": 2})
    subprocess.run(command(one, tmp_path / "one", method), check=True, capture_output=True)
    script = tmp_path / "run.py"
    script.write_text(RUN.format(method, str(two), str(tmp_path / "two")))
    # What mpirun tells the two processes that it starts; accelerate reads it.
    port = str(free_port())
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--mixed_precision", "no", "--main_process_port", port, str(script)]
    started = [
        subprocess.Popen(
            launch,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PMI_RANK": str(rank), "PMI_SIZE": "2", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    for process in started:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
    losses = [losses_of(tmp_path / name) for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
