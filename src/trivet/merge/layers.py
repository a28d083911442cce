"""Names of tensors that belong to a numbered layer, and layers put together anew.

Decoders number their blocks under one list (``model.layers.7.mlp.up_proj.weight``, ``transformer.h.7.…``),
so a slice of a recipe is a matter of names: the tensor of output layer n comes from layer m of each source.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trivet.errors import MergeError

_LAYER = re.compile(r"^(?P<head>(?:.*\.)?(?:layers|layer|h|blocks|block)\.)(?P<number>\d+)(?P<tail>\..+)$")
_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_FIRST = re.compile(r"(?:^|\.)(?:embed(?!_out)|wte|wpe|word_embeddings|position_embeddings)")
VOCABULARY = re.compile(
    r"(?:^|\.)(?:embed_tokens|lm_head|wte|word_embeddings|embed_in|embed_out|output_layer)\.(?:weight|bias)$"
)
"""Tensors whose first dimension is the vocabulary."""
OUTPUT_LAYER = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output_layer)\.weight$")
"""The output layer, which may be the embedding."""

# Towers of other senses have layers of their own, which no slice of the decoder is about.
_TOWER = re.compile(r"(?:^|\.)(?:vision|visual|audio|image)\w*\.")
_PREDICTION = re.compile(r"(?:^|\.)mtp(?:_\w+)?\.")
_COMPUTED = re.compile(r"(?:rotary_emb\.inv_freq|\.(?:attn|attention)\.masked_bias)$")
_CAUSAL_MASK = re.compile(r"\.(?:attn|attention)\.bias$")


@dataclass(frozen=True)
class LayerName:
    """A tensor's name cut at the number of its layer."""

    head: str
    number: int
    tail: str

    def numbered(self, number: int) -> str:
        """The name of the same tensor in another layer."""
        return f"{self.head}{number}{self.tail}"


def layer_of(name: str) -> LayerName | None:
    """Where a tensor's layer number is; ``None`` for a tensor outside the layers."""
    match = _LAYER.match(name)
    if match is None or _TOWER.search(match["head"]):
        return None
    return LayerName(match["head"], int(match["number"]), match["tail"])


def comes_first(name: str) -> bool:
    """Whether a tensor outside the layers comes before them (embeddings) or after (norm, output layer)."""
    return _FIRST.search(name) is not None


def is_computed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether it is what models compute and older ones stored: a rotary table, a causal mask."""
    return bool(_COMPUTED.search(name) or (len(shape) == 4 and _CAUSAL_MASK.search(name)))


def is_prediction_layer(name: str) -> bool:
    """Whether a tensor belongs to the layers beside a decoder that predict several tokens at once.

    Models that were fine-tuned with transformers have lost them: it does not load them.
    """
    return _PREDICTION.search(name) is not None


def count_layers(config: Mapping[str, Any], where: str) -> int:
    """The number of layers that a model's configuration names.

    Raises:
        MergeError: it names none.
    """
    return int(_holder(config, where)[1])


def with_layers(
    config: Mapping[str, Any], order: Iterable[tuple[Mapping[str, Any], int]], where: str
) -> dict[str, Any]:
    """The configuration of a model whose layer n is layer ``order[n][1]`` of a model with that configuration.

    Settings that list one value for each layer (``layer_types``) follow their layers.
    """
    chosen = list(order)
    text = config.get("text_config")
    key, count = _holder(config, where)
    nested = key not in config and isinstance(text, Mapping)
    own = dict(text if nested and isinstance(text, Mapping) else config)
    own[key] = len(chosen)
    for name, value in list(own.items()):
        if (
            isinstance(value, list)
            and len(value) == count
            and name.startswith(("layer", "sliding", "mlp_layer"))
        ):
            own[name] = [_inner(source, nested).get(name, value)[number] for source, number in chosen]
    return {**config, "text_config": own} if nested else own


def _inner(config: Mapping[str, Any], nested: bool) -> Mapping[str, Any]:
    inner = config.get("text_config") if nested else config
    return inner if isinstance(inner, Mapping) else config


def _holder(config: Mapping[str, Any], where: str) -> tuple[str, int]:
    for holder in (config, config.get("text_config") or {}):
        for key in _COUNTS:
            if isinstance(holder.get(key), int):
                return key, int(holder[key])
    raise MergeError(f"names no number of layers ({', '.join(_COUNTS)})", where=where)
