"""What every training method is told: a model, data, an adapter or none, and the trainer's own settings."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from trivet import _validation
from trivet._files import named_path, sha256_file, sha256_text
from trivet._validation import did_you_mean
from trivet.errors import ConfigError
from trivet.judges.base import Judge
from trivet.models.names import resolve_model

_OURS = {"task_type", "base_model_name_or_path", "inference_mode", "revision", "peft_type"}


class TrainConfig(_validation.Config):
    """The settings that all training methods share. Relative paths are relative to the file they stand in."""

    model: str = Field(description="what is trained: the embedded model, a folder, an adapter or a hub id")
    data: str = Field(description="rows to train on: a file, NAME/SPLIT:PATH of a public set, or a hub id")
    held_out: int = Field(
        0, ge=0, le=100_000, description="rows, drawn by the seed, that measure and do not train"
    )
    adapter: dict[str, Any] | None = Field(
        None, description="fields of PEFT's LoraConfig: an adapter is trained; without it, all weights are"
    )
    trainer: dict[str, Any] = Field(
        default_factory=dict, description="fields of TRL's class of arguments for this method"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of everything random")

    def inputs(self, base: Path) -> dict[str, str]:
        """By key, a digest of each thing that the settings name: weights and files by content."""
        return {
            "model": resolve_model(anchored(self.model, base)).identity,
            "data": data_digest(self.data, base),
        }

    def prompts(self, base: Path) -> frozenset[str]:
        """Digests (``trivet.data.prompts.prompt_digest``) of the prompts of all rows that may be trained on.

        Every method says which; a study refuses to measure with them.
        """
        raise NotImplementedError

    def models(self) -> list[str]:
        """The names of the models that the trained one is made of."""
        return [self.model]

    def judges(self, base: Path) -> tuple[Judge, ...]:
        """The judges whose scores the weights learn from; a study refuses to measure with them."""
        return ()


def anchored(model: str, base: Path) -> str:
    """The model's name, where it is a path in or under ``base`` that path."""
    path = named_path(model, base)
    return str(path) if path.exists() else model


def data_digest(source: str, base: Path) -> str:
    """A digest of the file, or of the files in the folder, that a source names; else of its name."""
    place = source.partition(":")[2] or source
    path = named_path(place, base)
    if path.is_file():
        return sha256_file(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return sha256_text(source.partition(":")[0] + "".join(map(sha256_file, files)))
    return sha256_text(source)


def lora_config(given: Mapping[str, Any], *, where: str, task: str = "CAUSAL_LM") -> Any:
    """PEFT's configuration of an adapter; ``task`` is PEFT's name of what the model does.

    Raises:
        ConfigError: an unknown field, or a value that PEFT refuses.
    """
    from peft import LoraConfig

    known = {field.name for field in dataclasses.fields(LoraConfig) if field.init} - _OURS
    for name in given:
        if name not in known:
            raise ConfigError(
                f"unknown field {name!r} of LoraConfig", where=where, hint=did_you_mean(str(name), known)
            )
    if given.get("init_lora_weights", True) not in (True, "gaussian", "orthogonal"):
        raise ConfigError(
            f"init_lora_weights: {given['init_lora_weights']!r} begins with another model than the one named",
            where=where,
            hint="leave it out; the model before training is what a policy is compared with",
        )
    try:
        return LoraConfig(task_type=task, **given)
    except (ValueError, TypeError) as error:
        raise ConfigError(" ".join(str(error).split())[:400], where=where) from error
