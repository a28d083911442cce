"""What `accelerate launch` may split among processes, and what of it training here cannot stand.

Data parallelism leaves each process the whole model, and so does DeepSpeed up to ZeRO-2. FSDP splits weights
and gathers those outside the layers for the length of the model's forward pass, within which answers are
scored. ZeRO-3 gathers a layer's weights only while that layer itself runs, and the scoring of answers reads
those of the output layer outside it (``trivet.train.scoring``).
"""

import os
from collections.abc import Mapping
from typing import Any

from trivet.errors import ConfigError


def refuse_zero3(where: str) -> None:
    """Refuse DeepSpeed's ZeRO-3, whoever asked for it.

    Raises:
        ConfigError: it is on.
    """
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    launched = _on("ACCELERATE_USE_DEEPSPEED") and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    if launched or is_deepspeed_zero3_enabled():
        raise ConfigError(
            "DeepSpeed ZeRO-3 splits the output layer's weights, which scoring answers reads as a whole",
            where=where,
            hint="use ZeRO-2 or FSDP, as in examples/accelerate",
        )


def refuse_deepspeed(given: Mapping[str, Any], what: str, where: str) -> None:
    """Refuse DeepSpeed for what updates weights by itself: its engine makes the step within ``backward``.

    Args:
        given: the user's fields of the trainer.
        what: updates them, in words.

    Raises:
        ConfigError: DeepSpeed is on.
    """
    if given.get("deepspeed") or _on("ACCELERATE_USE_DEEPSPEED"):
        raise ConfigError(
            f"DeepSpeed updates the weights by itself, and {what} would not be done",
            where=where,
            hint="use data parallelism (examples/accelerate), or algorithm: rloo",
        )


def splits_weights(arguments: Any) -> bool:
    """Whether the trainer's arguments or the launcher turn FSDP on."""
    return bool(arguments.fsdp) or _on("ACCELERATE_USE_FSDP")


def check_launch(arguments: Any, where: str) -> None:
    """Refuse what would train something else than the model that was loaded.

    Args:
        arguments: a ``transformers.TrainingArguments``.

    Raises:
        ConfigError: DeepSpeed's ZeRO-3, or FSDP where only the first process loads weights.
    """
    refuse_zero3(where)
    asked = str((arguments.fsdp_config or {}).get("cpu_ram_efficient_loading", "")).lower() == "true"
    if splits_weights(arguments) and (asked or _on("FSDP_CPU_RAM_EFFICIENT_LOADING")):
        raise ConfigError(
            "cpu_ram_efficient_loading leaves all processes but the first without weights, and the model is "
            "tried before it is split",
            where=where,
            hint="set fsdp_cpu_ram_efficient_loading: false",
        )


def need_whole_weights(arguments: Any, what: str, where: str) -> None:
    """Refuse FSDP for what reads or replaces weights between steps.

    Args:
        what: reads them, in words.

    Raises:
        ConfigError: FSDP is on.
    """
    if splits_weights(arguments):
        raise ConfigError(
            f"FSDP splits the weights, and {what} needs them whole",
            where=where,
            hint="use data parallelism or DeepSpeed ZeRO-2, as in examples/accelerate",
        )


def _on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")
