"""Attention of a packed batch over the slots of its sequences.

The tokens of all sequences lie one after another in one row: first the sequences that decode one token,
grouped by pool, then the stretches of prompts. It plugs into transformers' attention interface, so every
model whose attention goes through that interface runs unchanged.

Queries of the heads that share a key-value head are laid out as positions of one head, so keys and values are
never expanded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from trivet.errors import UnsupportedError
from trivet.models.torch_engine.kv_slots import Pool, Slot

NAME = "trivet"
# Passed by models and of no consequence here; anything else unknown is refused.
_HARMLESS = frozenset(
    {
        "position_ids", "is_causal", "use_cache", "cache_position", "output_attentions", "position_bias",
        "output_hidden_states", "return_dict", "num_items_in_batch", "position_embeddings",
    }
)  # fmt: skip


@dataclass
class DecodeGroup:
    """Sequences of one pool that compute one token each, tokens ``start`` … of the packed batch.

    ``slots`` and ``positions``: [sequences], ascending by slot; ``length``: positions that are attended to.
    """

    pool: Pool
    start: int
    slots: torch.Tensor
    positions: torch.Tensor
    length: int
    rows: int = 0  # slots 0 … rows - 1 are covered, with holes where rows > len(slots)
    write: torch.Tensor = field(init=False)
    source: torch.Tensor | None = field(init=False, default=None)
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.slots)
        self.rows = int(self.slots[-1]) + 1
        heads, capacity = self.pool.shape.heads, self.pool.capacity
        head = torch.arange(heads, device=self.slots.device)
        self.write = ((self.slots[:, None] * heads + head) * capacity + self.positions[:, None]).flatten()
        if self.rows != count:
            self.source = torch.zeros(self.rows, dtype=torch.long, device=self.slots.device)
            self.source[self.slots] = torch.arange(count, device=self.slots.device)

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Additive mask [rows, 1, 1, length]; a hole sees one position so that its softmax is defined."""
        if window not in self._masks:
            last = torch.zeros(self.rows, dtype=torch.long, device=self.slots.device)
            last[self.slots] = self.positions
            position = torch.arange(self.length, device=self.slots.device)
            visible = position <= last[:, None]
            if window is not None:
                visible &= position > last[:, None] - window
            mask = torch.zeros(visible.shape, dtype=dtype, device=self.slots.device)
            self._masks[window] = mask.masked_fill_(~visible, -torch.inf)[:, None, None]
        return self._masks[window]


@dataclass
class Stretch:
    """A stretch of one sequence: tokens ``start`` … ``start + count - 1`` of the packed batch."""

    slot: Slot
    start: int
    count: int
    position: int
    _masks: dict[tuple[int | None, int], torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, groups: int, like: torch.Tensor) -> torch.Tensor:
        """Additive causal mask [groups * count, position + count]."""
        if (window, groups) not in self._masks:
            query = torch.arange(self.position, self.position + self.count, device=like.device)[:, None]
            key = torch.arange(self.position + self.count, device=like.device)
            visible = key <= query
            if window is not None:
                visible &= key > query - window
            mask = torch.zeros(visible.shape, dtype=like.dtype, device=like.device)
            self._masks[window, groups] = mask.masked_fill_(~visible, -torch.inf).repeat(groups, 1)
        return self._masks[window, groups]


@dataclass
class Plan:
    """What one forward pass computes. ``seen`` collects each layer's shapes when a model is examined."""

    device: torch.device
    groups: list[DecodeGroup] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    seen: dict[int, tuple[int, int, int, int | None]] | None = None


def refuse_needs(others: Mapping[str, Any]) -> None:
    """Refuse what an attention of ours is passed and would leave out.

    Raises:
        UnsupportedError: names it.
    """
    unknown = sorted(name for name, given in others.items() if given is not None and name not in _HARMLESS)
    if unknown:
        raise UnsupportedError(f"the model's attention needs {', '.join(unknown)}")


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    trivet_plan: Plan | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in the form of transformers.

    ``query`` [1, heads, tokens, width], ``key`` and ``value`` [1, key-value heads, tokens, width]; returns
    [1, tokens, heads, width].
    """
    if trivet_plan is None:
        raise UnsupportedError("the model does not hand its arguments on to its attention")
    refuse_needs(others)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if trivet_plan.seen is not None:
        trivet_plan.seen[layer] = (key.shape[1], key.shape[3], value.shape[3], sliding_window)
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None
    came_from = query.device  # a model spread over several devices meets its keys and values on one
    query, key, value = (part[0].to(trivet_plan.device) for part in (query, key, value))
    out = query.new_empty(query.shape[1], query.shape[0], value.shape[2])
    for group in trivet_plan.groups:
        _decode(group, layer, query, key, value, out, scaling, sliding_window, softcap)
    for stretch in trivet_plan.stretches:
        _prefill(stretch, layer, query, key, value, out, scaling, sliding_window, softcap)
    return out[None].to(came_from), None


def _decode(
    group: DecodeGroup, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    out: torch.Tensor, scaling: float | None, window: int | None, softcap: float | None,
) -> None:  # fmt: skip
    count, heads = len(group.slots), key.shape[0]
    tokens = slice(group.start, group.start + count)
    keys, values = group.pool.keys[layer], group.pool.values[layer]
    keys.view(-1, keys.shape[-1]).index_copy_(
        0, group.write, key[:, tokens].transpose(0, 1).reshape(-1, key.shape[-1])
    )
    values.view(-1, values.shape[-1]).index_copy_(
        0, group.write, value[:, tokens].transpose(0, 1).reshape(-1, value.shape[-1])
    )
    queries = query[:, tokens].transpose(0, 1).reshape(count, heads, -1, query.shape[-1])
    if group.source is not None:
        queries = queries.index_select(0, group.source)
    result = _attend(
        queries,
        keys[: group.rows, :, : group.length],
        values[: group.rows, :, : group.length],
        group.mask(window, query.dtype),
        scaling,
        softcap,
    )
    if group.source is not None:
        result = result.index_select(0, group.slots)
    out[tokens] = result.reshape(count, -1, result.shape[-1])


def _prefill(
    stretch: Stretch, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    out: torch.Tensor, scaling: float | None, window: int | None, softcap: float | None,
) -> None:  # fmt: skip
    tokens = slice(stretch.start, stretch.start + stretch.count)
    end = stretch.position + stretch.count
    keys = stretch.slot.pool.keys[layer, stretch.slot.index]
    values = stretch.slot.pool.values[layer, stretch.slot.index]
    keys[:, stretch.position : end] = key[:, tokens]
    values[:, stretch.position : end] = value[:, tokens]
    heads = key.shape[0]
    groups = query.shape[0] // heads
    queries = query[:, tokens].reshape(1, heads, groups * stretch.count, query.shape[-1])
    mask = stretch.mask(window, groups, query)[None, None]
    result = _attend(queries, keys[None, :, :end], values[None, :, :end], mask, scaling, softcap)
    out[tokens] = result.reshape(query.shape[0], stretch.count, -1).transpose(0, 1)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor,
    scaling: float | None, softcap: float | None,
) -> torch.Tensor:  # fmt: skip
    """``query`` [batch, heads, positions, width] over ``key`` and ``value`` [batch, heads, length, width]."""
    if softcap is None:
        shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        return scaled_dot_product_attention(query, key, value, attn_mask=mask.expand(shape), scale=scaling)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap) + mask
    return scores.float().softmax(-1).to(value.dtype) @ value


def register() -> None:
    """Make the attention known to transformers. Without a mask function of its own, no mask is built."""
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
