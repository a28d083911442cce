"""A trainer's own settings: TRL's fields, checked against TRL's class."""

import dataclasses
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

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
        ConfigError: an unknown field, one that the method does not take up or that Trivet decides, or a value
            that the class refuses; see also ``trivet.train.launching.check_launch``.
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
    on_cpu = given.get("use_cpu", not torch.cuda.is_available())
    settings: dict[str, Any] = {
        "report_to": "none",
        "logging_steps": 1,
        "save_steps": 50,
        "save_total_limit": 2,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        **({"use_cpu": True, "bf16": False, "dataloader_pin_memory": False} if on_cpu else {}),
        **given,
        "output_dir": str(folder),
        "seed": seed,
        "remove_unused_columns": False,
    }
    refuse_zero3(where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            arguments = kind(**settings)
    except (ValueError, TypeError, ImportError, AttributeError, KeyError) as error:
        raise ConfigError(f"{' '.join(str(error).split())[:400]}", where=where) from error
    check_launch(arguments, where)
    return arguments
