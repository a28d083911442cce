"""New weights for a model in memory, written into the parameters that it runs with."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trivet.errors import ModelError, UnsupportedError
from trivet.models.torch_engine.packed_linear import PackedLinear


@dataclass(frozen=True)
class Places:
    """Where the tensors of a checkpoint go in a model.

    ``plain`` maps a name to the parameter or buffer itself, ``packed`` to a layer that keeps its weight in
    oneDNN's layout. ``tied`` maps a tensor to the one that it is a copy of; it is never written on its own.
    """

    plain: Mapping[str, torch.Tensor]
    packed: Mapping[str, PackedLinear]
    tied: Mapping[str, str]
    prefix: str
    unread: tuple[str, ...]

    @property
    def needed(self) -> set[str]:
        """The names that whole weights have."""
        return {*self.plain, *self.packed} - set(self.tied)

    def name_of(self, name: str) -> str | None:
        """The model's own name of a checkpoint's tensor; ``None`` where the model has none."""
        known = (name, f"{self.prefix}.{name}")  # a checkpoint may leave out the name of the decoder
        return next((one for one in known if one in self.plain or one in self.packed), None)


def places_of(model: Any) -> Places:
    """Where tensors go in a loaded model of transformers.

    Raises:
        UnsupportedError: a part of the model is not in memory, as with weights that are offloaded to disk.
    """
    plain = model.state_dict()  # the tensors themselves, not copies
    packed = {
        f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, PackedLinear)
    }
    away = next((name for name, tensor in plain.items() if tensor.device.type == "meta"), None)
    if away is not None:
        raise UnsupportedError(f"{away} is not in memory, so its values cannot be replaced")
    return Places(
        plain,
        packed,
        dict(model.all_tied_weights_keys),
        model.base_model_prefix,
        tuple(model._keys_to_ignore_on_load_unexpected or ()),
    )


def write_weights(places: Places, tensors: Iterable[tuple[str, torch.Tensor]], *, where: str) -> None:
    """Write every tensor of a checkpoint to its place, in the type and on the device that are there.

    Args:
        tensors: names as in the checkpoint and values of any floating type, taken one at a time.
        where: the model's name in messages.

    Raises:
        ModelError: a tensor is missing, unknown or of another shape.
    """
    left = places.needed
    for name, values in tensors:
        own = places.name_of(name)
        if own is None:
            if any(re.search(pattern, name) for pattern in places.unread):
                continue  # tables that some checkpoints hold and the model computes
            raise ModelError(
                f"has no tensor {name}", where=where, hint="the weights are of another architecture"
            )
        if own not in places.tied:
            _write(places, own, values, where)
            left.discard(own)
    if left:
        raise ModelError(f"{len(left)} tensors are missing, the first is {min(left)}", where=where)
    for name, source in places.tied.items():
        if name in places.packed:  # an unpacked one shares the memory of its source
            places.packed[name].load_weight(places.plain[source])


def _write(places: Places, name: str, values: torch.Tensor, where: str) -> None:
    layer = places.packed.get(name)
    shape = tuple(places.plain[name].shape) if layer is None else (layer.out_features, layer.in_features)
    if tuple(values.shape) != shape:
        raise ModelError(f"{name} has the shape {list(values.shape)}, not {list(shape)}", where=where)
    if layer is not None:
        layer.load_weight(values)
        return
    with torch.no_grad():
        places.plain[name].copy_(values)
