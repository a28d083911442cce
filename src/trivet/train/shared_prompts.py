"""Several answers to one prompt in one forward pass: the prompt is computed once.

The tokens of all prompts and answers of a batch lie one after another in one row, without padding::

    prompt 1 | answer 1a | answer 1b | prompt 2 | answer 2a | answer 2b | …

An answer sees its own prompt and itself; its positions go on from the prompt's. Logits and gradients are
those of the separate sequences: in a causal model a prompt does not
depend on what follows it.
It plugs into transformers' attention interface, so every decoder whose attention goes through that interface
runs unchanged; ``trivet.train.scoring.packs`` finds out which do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from trivet.errors import UnsupportedError
from trivet.models.torch_engine.attention import refuse_needs

NAME = "trivet_shared_prompts"


@dataclass(frozen=True)
class Group:
    """One prompt with its answers: ``start`` is the first token's place in the row, the rest are lengths."""

    start: int
    prompt: int
    answers: tuple[int, ...]

    @property
    def end(self) -> int:
        """The place behind its last token."""
        return self.start + self.prompt + sum(self.answers)


@dataclass
class Layout:
    """Where the prompts and answers of a packed row stand."""

    groups: list[Group]
    _masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: Sequence[tuple[int, Sequence[int]]]) -> "Layout":
        """One after another: for each prompt its length and those of its answers."""
        groups, start = [], 0
        for prompt, answers in lengths:
            groups.append(Group(start, prompt, tuple(answers)))
            start = groups[-1].end
        return cls(groups)

    def positions(self) -> torch.Tensor:
        """Position ids [1, tokens]: an answer goes on where its prompt ends."""
        parts = []
        for group in self.groups:
            parts.append(torch.arange(group.prompt))
            parts += [torch.arange(group.prompt, group.prompt + answer) for answer in group.answers]
        return torch.cat(parts)[None]

    def mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
        """Boolean mask [queries, keys] of the last ``queries`` of ``keys`` positions; true is visible."""
        known = (queries, keys, window)
        if known not in self._masks:
            query = torch.arange(keys - queries, keys, device=device)[:, None]
            key = torch.arange(keys, device=device)
            visible = key <= query
            if window is not None:
                visible &= key > query - window
            self._masks[known] = visible
        return self._masks[known]


def shared_prompt_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    trivet_layout: Layout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in the form of transformers.

    ``query`` [1, heads, tokens, width], ``key`` and ``value`` [1, key-value heads, tokens, width]; returns
    [1, tokens, heads, width].

    Raises:
        UnsupportedError: the model does not hand its arguments on, or its attention needs what this lacks.
    """
    if trivet_layout is None:
        raise UnsupportedError("the model does not hand its arguments on to its attention")
    refuse_needs(others)
    shared = query.shape[1] // key.shape[1]
    if shared > 1:  # heads that share a key and a value
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))

    def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        count, length = queries.shape[2], keys.shape[2]
        window = sliding_window if sliding_window is not None and sliding_window < length else None
        plain = count == length and window is None
        return scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if plain else trivet_layout.mask(count, length, window, queries.device),
            dropout_p=dropout,
            is_causal=plain,
            scale=scaling,
        )

    results = []
    for group in trivet_layout.groups:
        prompt, start = slice(group.start, group.start + group.prompt), group.start
        end = start + group.prompt + (group.answers[0] if group.answers else 0)
        first = slice(start, end)  # the prompt with the first answer is one plain sequence
        results.append(attend(query[:, :, first], key[:, :, first], value[:, :, first]))
        for answer in group.answers[1:]:
            own = slice(end, end + answer)
            seen_keys = torch.cat([key[:, :, prompt], key[:, :, own]], dim=2)
            seen_values = torch.cat([value[:, :, prompt], value[:, :, own]], dim=2)
            results.append(attend(query[:, :, own], seen_keys, seen_values))
            end += answer
    return torch.cat(results, dim=2).transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the attention known to transformers. Without a mask function of its own, no mask is built."""
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, shared_prompt_attention)
