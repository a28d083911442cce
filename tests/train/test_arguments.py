"""The fields of ``trainer``: types, ranges, what a method does not do; each wrong one gives one message."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import TypeAdapter
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.reward_config import RewardConfig
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.sft_config import SFTConfig

from trivet.errors import ConfigError, TrivetError
from trivet.train.arguments import trainer_arguments
from trivet.train.running import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FIELDS = ("beta", "num_generations", "max_completion_length", "reward_clip_range", "num_iterations")


def arguments(folder: Path, **given: Any) -> Any:
    return trainer_arguments(RLOOConfig, given, folder=folder, seed=3, honoured=FIELDS, where="x: trainer")


@pytest.mark.parametrize("kind", [DPOConfig, RewardConfig, RLOOConfig, SFTConfig])
def test_the_installed_annotations_take_the_defaults(kind: Any) -> None:
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.init and field.default is not dataclasses.MISSING:
            TypeAdapter(hints[field.name]).validate_python(field.default)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    made = arguments(
        tmp_path, learning_rate="1e-4", beta="0.1", max_steps=3, reward_clip_range=[-1, 1], fsdp=False
    )
    assert made.learning_rate == 1e-4 and made.beta == 0.1
    assert made.max_steps == 3 and isinstance(made.max_steps, int) and made.save_steps == 50
    assert made.reward_clip_range == (-1.0, 1.0)
    options: dict[str, Any] = {"folder": tmp_path, "seed": 3, "honoured": ("loss_type",), "where": "x"}
    for given in ("hinge", ["hinge"]):  # the class makes a list of one
        assert trainer_arguments(DPOConfig, {"loss_type": given}, **options).loss_type == ["hinge"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": "fast"}, "learning_rate: Input should be a valid number"),
        ({"learning_rate": float("nan")}, "learning_rate: "),
        ({"learning_rate": -1e-4}, "learning_rate: Input should be greater than or equal to 0"),
        ({"max_steps": "two"}, "max_steps: Input should be a valid integer"),
        ({"max_steps": 0}, "max_steps: must be 1 or more, or -1"),
        ({"num_train_epochs": 0}, "num_train_epochs: Input should be greater than 0"),
        ({"beta": None}, "beta: Input should be a valid number .received None"),
        ({"beta": -0.1}, "beta: Input should be greater than or equal to 0"),
        ({"max_completion_length": None}, "max_completion_length: "),
        ({"max_completion_length": 0}, "max_completion_length: .* greater than or equal to 1"),
        ({"num_generations": 0}, "num_generations: .* greater than or equal to 2"),
        ({"num_generations": None}, "num_generations: "),
        ({"num_iterations": 0}, "num_iterations: .* greater than or equal to 1"),
        ({"reward_clip_range": 5}, "reward_clip_range: Input should be a valid tuple"),
        ({"reward_clip_range": [1, -1]}, "reward_clip_range: must be two numbers, the lower one first"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: "),
        ({"save_steps": float("inf")}, "save_steps: "),
        ({"warmup_steps": "1/0"}, "warmup_steps: "),
        ({"report_to": "nope"}, "report_to: 'nope' is unknown to transformers or not installed"),
        ({"lr_scheduler_type": "nope"}, "nope"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"x: trainer: {message}" if ":" in message else message):
        arguments(tmp_path, **given)


@pytest.mark.parametrize(
    "given", [{"eval_strategy": "steps", "per_device_eval_batch_size": 6}, {"eval_on_start": True}]
)
def test_evaluation_is_refused_where_none_is_made(
    write_settings: Callable[..., Path],
    direct_settings: Callable[..., Path],
    tmp_path: Path,
    given: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match="this method does not evaluate between steps"):
        train("direct_rlhf", direct_settings(given), tmp_path / "out")
    with pytest.raises(ConfigError, match="evaluation during training needs held_out"):
        train("dpo", write_settings(trainer=given), tmp_path / "out")


@pytest.mark.parametrize("key", ["data", "model", "judge"])
@pytest.mark.parametrize("name", ["~no_such_user/x", "y" * 400])
def test_names_that_no_path_can_have_are_named(
    direct_settings: Callable[..., Path], tmp_path: Path, key: str, name: str
) -> None:
    with pytest.raises(TrivetError, match=r"names no file or folder|unknown judge"):
        train("direct_rlhf", direct_settings(**{key: name}), tmp_path / "out")
