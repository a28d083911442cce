"""Several processes: the configurations that ship, two CPU processes, a sharded step, what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.train.test_checkpoints import command, free_port, losses_of

from trivet.errors import ConfigError
from trivet.train.running import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FOLDER = Path(__file__).parents[2] / "examples" / "accelerate"
PREFIXES = {"fsdp_config": "fsdp_", "deepspeed_config": ""}


@pytest.mark.parametrize("name", ["ddp_cpu", "multi_gpu", "fsdp", "deepspeed_zero2"])
def test_the_configurations_are_those_of_the_installed_accelerate(name: str) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert f"examples/accelerate/{name}.yaml -m trivet train" in path.read_text()
    options = {action.dest for action in launch_command_parser()._actions}
    for key, value in yaml.safe_load(path.read_text()).items():
        if isinstance(value, dict):
            assert {PREFIXES[key] + field.removeprefix(PREFIXES[key]) for field in value} <= options


@pytest.mark.slow
def test_two_launched_processes_have_the_losses_of_one(
    write_settings: Callable[..., Path], tmp_path: Path
) -> None:
    one = write_settings("one.yaml", trainer={"max_steps": 3, "per_device_train_batch_size": 4})
    two = write_settings("two.yaml", trainer={"max_steps": 3, "per_device_train_batch_size": 2})
    subprocess.run(command(one, tmp_path / "one"), check=True, capture_output=True)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(FOLDER / "ddp_cpu.yaml"),
    ]
    launch += ["--main_process_port", str(free_port()), "-m", "trivet", "train", "dpo", str(two)]
    done = subprocess.run(
        [*launch, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses_of(tmp_path / "one") == pytest.approx(losses_of(tmp_path / "two"), abs=1e-4)


SHARDED = """
import json, sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trivet.train.batches import Example, model_inputs
from trivet.train.scoring import causal_model, packs, score_answers

folder, out = sys.argv[1:]
dist.init_process_group("gloo")
examples = [Example(0, (1, 5, 9, 4), ((7, 8, 2), (9, 2))), Example(1, (1, 6), ((4, 2), (5, 5, 5, 2)))]
inputs = lambda: model_inputs(examples, packed=True, padding=0)


def made(adapted):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapted:
        model = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"]))
    score_answers(model)
    assert packs(model, 300)
    return model


def step(model):
    logprobs = model(**inputs())
    logprobs.square().mean().backward()
    return logprobs.detach()


report = []
for adapted in (False, True):
    whole, split = made(adapted), made(adapted)
    expected = step(whole)
    for layer in causal_model(split).model.layers:
        fully_shard(layer)
    fully_shard(split)
    share = max(p.to_local().numel() / p.numel() for p in split.parameters() if p.dim() > 1)
    apart = [float((step(split) - expected).abs().max())]
    for one, two in zip(whole.parameters(), split.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            apart.append(float((two.grad.full_tensor() - one.grad).abs().max()))
    report.append({"apart": max(apart), "gradients": len(apart) - 1, "share": share})
if dist.get_rank() == 0:
    with open(out, "w") as file:
        json.dump(report, file)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_step_on_split_weights_is_that_on_whole_ones(tiny_model_folder: Path, tmp_path: Path) -> None:
    """FSDP itself on two CPU processes, all weights and an adapter; accelerate offers it on GPUs alone."""
    script, out = tmp_path / "sharded.py", tmp_path / "found.json"
    script.write_text(SHARDED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_port", str(free_port()), str(script), str(tiny_model_folder), str(out)]
    done = subprocess.run(
        launch,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for found in json.loads(out.read_text()):
        assert found["apart"] < 1e-5 and found["gradients"] > 3 and found["share"] == 0.5


@pytest.mark.parametrize(
    ("variables", "method", "message"),
    [
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
            "dpo",
            "ZeRO-3 splits",
        ),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "dpo", "without weights"),
        ({"ACCELERATE_USE_FSDP": "true"}, "morlhf", "FSDP splits the weights, and the engine"),
        ({"ACCELERATE_USE_FSDP": "true"}, "modpo", "FSDP splits the weights, and a front"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "direct_rlhf", "the several updates of a step of PPO"),
    ],
)
def test_what_cannot_train_here_is_refused(
    write_settings: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    method: str,
    message: str,
) -> None:
    lora = {"r": 2, "target_modules": ["q_proj"]}
    changes: dict[str, Any] = {
        "dpo": {},
        "direct_rlhf": {"judge": "refusal_string_match", "algorithm": "ppo"},
        "morlhf": {"rewards": {"refusal": "refusal_string_match"}, "weights": [1.0]},
        "modpo": {"margins": {"short": {"length": "tokens"}}, "weights": [[0.5, 0.5]], "adapter": lora},
    }[method]
    settings = write_settings(**changes)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        train(method, settings, tmp_path / "out")
