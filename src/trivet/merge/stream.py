"""A tensor of an output whose rows are read from the models' files as a method asks for them."""

from collections.abc import Iterator, Sequence
from math import prod

import torch

from trivet.merge._group import BLOCK_ELEMENTS, Block, TensorGroup
from trivet.merge._select import GATHERED_BYTES
from trivet.merge.layout import Output, Part

# A tensor whose blocks of all models, and their task vectors, fit in this is read once however often a method
# looks at it; a larger one is read again for each look, so that memory does not grow with the model.
KEPT_BYTES = 48 * 2**20
_COPIES = 8  # float32 copies of a block, for each expert, that arithmetic makes in passing


class StreamGroup(TensorGroup):
    """The rows of one output tensor, from disk."""

    def __init__(self, output: Output, *, seed: int, block_elements: int = BLOCK_ELEMENTS) -> None:
        super().__init__(output.name, output.entry.shape, len(output.experts), seed, block_elements)
        self._output = output
        self._kept: list[Block] | None = None
        self._keep = output.config.passes > 1 and fits(output)

    @property
    def has_base(self) -> bool:
        return self._output.base is not None

    def blocks(self) -> Iterator[Block]:
        if self._kept is not None:
            yield from self._kept
            return
        blocks = []
        for block in super().blocks():
            if self._keep:
                blocks.append(block)
            yield block
        if self._keep:
            self._kept = blocks

    def some_blocks(self, count: int) -> Iterator[Block]:
        return self.blocks() if self._keep else super().some_blocks(count)

    def load(self, row: int, rows: int) -> Block:
        base = self._output.base
        base_rows = None if base is None else base.source.rows(base.tensor, row, rows)
        experts: list[torch.Tensor | None] = []
        deltas: list[torch.Tensor | None] = []
        for part in self._output.experts:
            delta = self._delta(part, row, rows) if base_rows is not None else None
            deltas.append(delta)
            experts.append(None if delta is not None else part.source.rows(part.tensor, row, rows))
        return Block(row, row * self.columns, base_rows, tuple(experts), tuple(deltas))

    def _delta(self, part: Part, row: int, rows: int) -> torch.Tensor | None:
        """The task vector of an adapter on the recipe's own base; ``None`` for other experts."""
        adapter = part.source.adapter
        if adapter is None or not self._on_base(part):
            return None
        if not adapter.changes(part.tensor):
            return torch.zeros(rows, self.columns)
        return adapter.delta(part.tensor, row, rows)

    def _on_base(self, part: Part) -> bool:
        base = self._output.base
        return (
            base is not None
            and base.source.adapter is None
            and part.source.weights is base.source.weights
            and part.tensor == base.tensor
        )

    def factors(self, expert: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        part = self._output.experts[expert]
        adapter = part.source.adapter
        return adapter.factors(part.tensor) if adapter is not None and self._on_base(part) else None


def fits(output: Output) -> bool:
    """Whether a tensor is read once however often a method looks at it."""
    return 4 * prod(output.entry.shape) * (2 * len(output.experts) + 1) <= KEPT_BYTES


def memory_of_one(outputs: Sequence[Output], *, whole: bool) -> int:
    """Bytes that a thread holds at most while it merges one tensor."""
    experts = max((len(output.experts) for output in outputs), default=1)
    block = 4 * BLOCK_ELEMENTS * _COPIES * (experts + 1)
    if not whole:
        looks = max((output.config.passes for output in outputs), default=1)
        return block + (KEPT_BYTES + 2 * GATHERED_BYTES if looks > 1 else 0)
    matrices = [prod(output.entry.shape) for output in outputs if len(output.entry.shape) == 2]
    return block + 4 * max(matrices, default=0) * (3 * experts + 2)
