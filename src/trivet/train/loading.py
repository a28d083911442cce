"""The model that is trained: weights in float32 on a CPU, with an adapter where one is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trivet.errors import ConfigError, ModelError, UnsupportedError
from trivet.models.classifiers import padding_of
from trivet.models.names import ModelReference, resolve_model
from trivet.models.torch_engine.adapters import with_adapter
from trivet.train.settings import anchored, lora_config


@dataclass
class Trainee:
    """A model with its tokenizer. ``identity`` is the digest of the weights before training."""

    model: Any
    tokenizer: Any
    identity: str
    name: str

    @property
    def padding(self) -> int:
        """The token that pads; what it is plays no part in any result."""
        return padding_of(self.tokenizer)


def load_trainee(
    name: str, *, base: Path, adapter: Mapping[str, Any] | None, seed: int, where: str
) -> Trainee:
    """Load a model to train it: float32 on a CPU, else its own type; an adapter's weights drawn by the seed.

    A model that is an adapter itself is merged into its base first.

    Raises:
        ModelError: there is no such model, or it does not load.
        UnsupportedError: it is an endpoint or a GGUF file.
        ConfigError: the adapter does not fit the model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from transformers.utils import logging

    reference = resolve_model(anchored(name, base))
    folder = weights_folder(reference, where=f"{where}: model {name}")
    refuse_adapter_on_adapter(reference, adapter, where)
    set_seed(seed)
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=training_dtype(), use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise ModelError(f"cannot be loaded: {' '.join(str(error).split())[:400]}", where=name) from error
    if reference.base is not None:
        assert reference.path is not None
        model = with_adapter(model, reference.path).requires_grad_(True)  # PEFT froze it
    if adapter is not None:
        model = with_new_adapter(model, adapter, where=f"{where}: adapter")
    return Trainee(model, tokenizer, reference.identity, name)


def weights_folder(reference: ModelReference, *, where: str) -> Path:
    """The folder of the weights that are trained, or that an adapter is merged into.

    Raises:
        UnsupportedError: the model is an endpoint or a GGUF file.
    """
    folder = (reference.base or reference).path
    if folder is None or not folder.is_dir():
        raise UnsupportedError("cannot be trained: it is not a folder of weights", where=where)
    return folder


def training_dtype() -> Any:
    """The type that weights are trained in: float32 on a CPU, the checkpoint's own on a GPU."""
    return "auto" if torch.cuda.is_available() else torch.float32


def with_new_adapter(model: Any, adapter: Mapping[str, Any], *, where: str, task: str = "CAUSAL_LM") -> Any:
    """The model with a fresh adapter; ``task`` is PEFT's name of what the model does.

    Raises:
        ConfigError: the adapter's settings are wrong, or it does not fit the model.
    """
    from peft import get_peft_model

    try:
        return get_peft_model(model, lora_config(adapter, where=where, task=task))
    except ValueError as error:
        raise ConfigError(" ".join(str(error).split())[:400], where=where) from error


def refuse_adapter_on_adapter(
    reference: ModelReference, adapter: Mapping[str, Any] | None, where: str
) -> None:
    """An adapter on a model that is an adapter itself would name a base that nobody has.

    Raises:
        ConfigError: the model is an adapter, and another one is asked for.
    """
    if adapter is not None and reference.base is not None:
        raise ConfigError(
            f"model: {reference.name} is an adapter, and an adapter names one base model",
            where=where,
            hint="merge it into its base first (`trivet merge`), or leave `adapter` out to train all weights",
        )


def public_name(reference: ModelReference) -> str:
    """What an adapter calls its base: the hub's id, which others have too, or the folder."""
    if reference.kind in ("embedded", "hub") and reference.location:
        return reference.location
    return str((reference.base or reference).path.absolute())  # type: ignore[union-attr]


def memory_estimate(model: Any, *, tokens: int) -> dict[str, int]:
    """Bytes that a training step takes, by part; a rough figure for plain transformers.

    Args:
        tokens: of a batch.

    Weights and their gradients and the two moments of AdamW are exact; activations are counted as what the
    layers of a Llama-like model keep for the backward pass (about 16 vectors of the width and 4 of the
    feed-forward layer for each layer and token).
    """
    parameters = list(model.parameters())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    config = model.config.get_text_config()
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    layers = int(config.num_hidden_layers)
    size = parameters[0].element_size()
    return {
        "weights": weights,
        "gradients": trained,
        "optimizer": 2 * trained,
        "activations": tokens * layers * (16 * width + 4 * inner) * size,
    }


def memory_sentence(parts: Mapping[str, int]) -> str:
    """Bytes by part, as a user is told."""
    shown = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    return f"memory, estimated for the longest batch: {sum(parts.values()) / 1e9:.1f} GB ({shown})"
