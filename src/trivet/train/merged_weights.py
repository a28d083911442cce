"""The weights that a model in training has as a whole checkpoint: adapters merged, one layer at a time."""

import copy
from collections.abc import Iterator
from typing import Any

import torch

from trivet.train.scoring import causal_model


@torch.no_grad()
def merged_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and values of each tensor of the checkpoint that ``model`` would be with its adapter merged.

    The model itself stays as it is: merging and unmerging in place would change its weights by rounding. A
    copy of one layer at a time is merged, so that little memory is needed.
    """
    inner = causal_model(model)
    adapted = dict(_adapted_layers(inner))
    for name, tensor in inner.state_dict().items():
        if not any(name.startswith(f"{layer}.") for layer in adapted):
            yield name, tensor
    for layer, module in adapted.items():
        for name, tensor in _plain(module).state_dict().items():
            yield f"{layer}.{name}", tensor


def _adapted_layers(inner: Any) -> Iterator[tuple[str, Any]]:
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import ModulesToSaveWrapper
    except ImportError:  # without PEFT nothing is adapted
        return
    for name, module in inner.named_modules():
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
            yield name, module


def _plain(module: Any) -> Any:
    """The layer without an adapter that an adapted one amounts to."""
    if hasattr(module, "modules_to_save"):
        return module.modules_to_save[module.active_adapters[0]]
    merged = copy.deepcopy(module)
    merged.merge()
    return merged.get_base_layer()
