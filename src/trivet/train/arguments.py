"""A trainer's own settings: TRL's fields, checked against TRL's class."""

import dataclasses
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from trivet._validation import did_you_mean
from trivet.errors import ConfigError
from trivet.train.launching import check_launch, refuse_zero3

# What Trivet decides: where files lie, and what would send them elsewhere or need code from elsewhere.
_OURS = {
    "output_dir": "the output folder is an argument of the command",
    "resume_from_checkpoint": "the same command goes on where it was interrupted",
    "overwrite_output_dir": "an output folder is never overwritten",
    "do_train": "a training method trains",
    "remove_unused_columns": "batches are made by the method",
    "seed": "the seed is a key of its own",
    "data_seed": "the seed is a key of its own",
    "push_to_hub": "publish the finished folder with `hf upload`",
    "label_names": "batches are made by the method",
    "trust_remote_code": "code from a model's repository is not run",
    "save_only_model": "a run that cannot be resumed is not made",
}


def _steps(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("must be 1 or more, or -1 where num_train_epochs says how long")
    return value


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("must be two numbers, the lower one first")
    return value


_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_RANGES: dict[str, Any] = {
    "max_steps": Annotated[int, AfterValidator(_steps)],
    "num_train_epochs": _Positive,
    "per_device_train_batch_size": _Count,
    "per_device_eval_batch_size": _Count,
    "gradient_accumulation_steps": _Count,
    "learning_rate": _NotNegative,
    "weight_decay": _NotNegative,
    "warmup_steps": _NotNegative,
    "max_grad_norm": _NotNegative,
    "fsdp": bool | str | list[str] | None,
    "loss_type": str | list[str],
    "adam_beta1": _Share,
    "adam_beta2": _Share,
    "adam_epsilon": _Positive,
    "save_steps": _Positive,
    "save_total_limit": _Count | None,
    "logging_steps": _Positive,
    "beta": _NotNegative,
    "max_length": _Count | None,
    "num_generations": Annotated[int, Field(ge=2)],
    "max_completion_length": _Count,
    "num_iterations": _Count,
    "epsilon": _Positive,
    "reward_clip_range": Annotated[tuple[float, float], AfterValidator(_ascending)] | None,
}
"""Of fields whose annotation in TRL or transformers allows more than can be trained with, or less than the
class itself reads."""


def trainer_arguments(
    kind: type[TrainingArguments],
    given: Mapping[str, Any],
    *,
    folder: Path,
    seed: int,
    honoured: Collection[str],
    where: str,
) -> Any:
    """The arguments of a trainer, with defaults that fit the machine.

    Args:
        kind: TRL's class of arguments, such as ``trl.DPOConfig``.
        given: the user's fields.
        folder: where checkpoints are written.
        seed: of everything random.
        honoured: the fields beyond those of ``transformers.TrainingArguments`` that the method takes up.

    Raises:
        ConfigError: an unknown field, one that the method does not take up or that Trivet decides, a value of
            another type or out of range, or one that the class refuses; see also
            ``trivet.train.launching.check_launch``.
    """
    known = {field.name for field in dataclasses.fields(kind) if field.init}
    plain = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"unknown field {name!r} of {kind.__name__}", where=where, hint=did_you_mean(str(name), known)
            )
        if name in _OURS:
            raise ConfigError(f"{name}: {_OURS[name]}", where=where, hint="leave it out")
        if name not in plain and name not in honoured:
            raise ConfigError(
                f"{name}: this method does not take up that field of {kind.__name__}",
                where=where,
                hint=f"beyond transformers' own fields it takes {', '.join(sorted(honoured))}",
            )
    values = _checked(kind, given, where)
    on_cpu = values.get("use_cpu", not torch.cuda.is_available())
    settings: dict[str, Any] = {
        "report_to": "none",
        "logging_steps": 1,
        "save_steps": 50,
        "save_total_limit": 2,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        **({"use_cpu": True, "bf16": False, "dataloader_pin_memory": False} if on_cpu else {}),
        **values,
        "output_dir": str(folder),
        "seed": seed,
        "remove_unused_columns": False,
    }
    refuse_zero3(where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            arguments = kind(**settings)
    except (ValueError, TypeError, ImportError, AttributeError, KeyError, ArithmeticError) as error:
        raise ConfigError(f"{' '.join(str(error).split())[:400]}", where=where) from error
    _check_reports(arguments.report_to, where)
    check_launch(arguments, where)
    return arguments


def _checked(kind: type[TrainingArguments], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values, each of its field's type and in its range: YAML reads ``1e-4`` as a text.

    The class itself checks no types, and a text would first fail in the optimiser.
    """
    try:
        annotations = {**get_type_hints(kind, include_extras=True), **_RANGES}
    except NameError:  # of a type that another version of the class names only while it is checked
        annotations = _RANGES
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    values = {}
    for name, value in given.items():
        try:
            found = TypeAdapter(annotations.get(name, Any)).validate_python(value)
        except ValidationError as error:
            rule = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            default = defaults[name]
            raise ConfigError(
                f"{name}: {rule} (received {value!r:.80})",
                where=where,
                hint="mend the value"
                if default is dataclasses.MISSING or default is None
                else f"mend the value, or leave it out for {default!r}",
            ) from None
        values[name] = value if found == value else found
    return values


def _check_reports(names: Collection[str], where: str) -> None:
    here = get_available_reporting_integrations()
    for name in names:
        if name not in here and name != "kubeflow":  # which transformers adds by itself
            raise ConfigError(
                f"report_to: {name!r} is unknown to transformers or not installed",
                where=where,
                hint=f"installed here: {', '.join(here) or 'none'}; left out, the log is sent nowhere",
            )
