"""What a merging method is given: one tensor of all models, in blocks of rows.

A method is a function ``merge(config, tensor)`` that looks at the tensor as often as it needs to
(thresholds, norms, singular vectors) and returns a function from a ``Block`` to the merged rows. Whether
the rows come from memory or are read from disk as they are needed is not its business.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from threading import Lock
from typing import Any, TypeAlias

import torch

from trivet.errors import MergeError
from trivet.merge._random import Array, draws

BLOCK_ELEMENTS = 2**18
"""Elements of one model in a block: 1 MiB in float32, so that its work stays in the processor's cache."""

Merged: TypeAlias = Callable[["Block"], torch.Tensor]
"""Merges one block: float32 [rows, columns]."""


@dataclass(frozen=True)
class Block:
    """Rows ``row`` … of one tensor, in float32.

    Every tensor is seen as [rows, columns] with its last dimension as the columns; one dimension is one row.
    ``base`` and each of ``experts``: [rows, columns]. ``deltas`` are the experts minus the base; where an
    expert is an adapter they are its product, which has not gone through the rounding of a sum. They are
    shared: a method must not change them.
    """

    row: int
    first: int
    base: torch.Tensor | None
    _experts: tuple[torch.Tensor | None, ...]
    _deltas: tuple[torch.Tensor | None, ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        some = next(part for part in (self.base, *self._experts, *self._deltas) if part is not None)
        return int(some.shape[0])

    @cached_property
    def experts(self) -> tuple[torch.Tensor, ...]:
        """The experts' rows."""
        return tuple(
            expert if expert is not None else self.base + delta  # type: ignore[operator]
            for expert, delta in zip(self._experts, self._deltas, strict=True)
        )

    @cached_property
    def deltas(self) -> tuple[torch.Tensor, ...]:
        """The task vectors' rows W_t − W_0."""
        assert self.base is not None
        return tuple(
            delta if delta is not None else expert - self.base  # type: ignore[operator]
            for expert, delta in zip(self._experts, self._deltas, strict=True)
        )


class ModelScope:
    """All tensors of a merge, for what is decided once for the whole model. Threads may share it."""

    def __init__(self, groups: Callable[[], Iterator["TensorGroup"]]) -> None:
        self.groups = groups
        self._known: dict[str, Any] = {}
        self._lock = Lock()

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """``compute()``, remembered under ``key``."""
        with self._lock:
            if key not in self._known:
                self._known[key] = compute()
            return self._known[key]


@dataclass
class TensorGroup:
    """One tensor of the base (where there is one) and of ``count`` experts.

    ``notes`` takes what a method wants said in the merge report, by plain keys; a list ``warnings`` in it is
    shown to the user.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    seed: int = 0
    block_elements: int = BLOCK_ELEMENTS
    notes: dict[str, Any] = field(default_factory=dict)
    scope: ModelScope | None = None

    @property
    def columns(self) -> int:
        """Length of the last dimension."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """Product of the other dimensions."""
        return prod(self.shape[:-1]) if self.shape else 1

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def has_base(self) -> bool:
        """Whether the recipe names a base model."""
        raise NotImplementedError

    def load(self, row: int, rows: int) -> Block:
        """Rows ``row`` … ``row + rows - 1``."""
        raise NotImplementedError

    def factors(self, expert: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(B [rows, r], A [r, columns]) with delta = B A where the expert is an adapter, else ``None``."""
        return None

    def blocks(self) -> Iterator[Block]:
        """The tensor from its first row to its last."""
        step = max(1, self.block_elements // max(1, self.columns))
        for row in range(0, self.rows, step):
            yield self.load(row, min(step, self.rows - row))

    def some_blocks(self, count: int) -> Iterator[Block]:
        """Up to ``count`` evenly spaced stretches of rows that are quick to read, or all blocks."""
        rows = max(1, min(self.block_elements // max(1, self.columns), self.rows) // count)
        for number in range(min(count, self.rows)):
            row = number * self.rows // count
            yield self.load(row, min(rows, self.rows - row))

    def whole(self) -> Block:
        """All rows at once, for methods that need the matrix."""
        return self.load(0, self.rows)

    def draws(self, expert: int, block: Block) -> Array:
        """A uniform uint32 for every element of a block, [rows, columns]: the same whatever the blocks."""
        drawn = draws(self.seed, self.name, expert, block.first, block.rows * self.columns)
        return drawn.reshape(block.rows, self.columns)

    def require_base(self) -> None:
        """Refuse a recipe without a base model.

        Raises:
            MergeError: there is none.
        """
        if not self.has_base:
            raise MergeError("this method needs base_model", where=self.name)

    def model(self) -> ModelScope:
        """The whole model; a tensor on its own is one."""
        if self.scope is None:
            self.scope = ModelScope(lambda: iter([self]))
        return self.scope

    def warn(self, text: str) -> None:
        """Say something in the report about this tensor."""
        self.notes.setdefault("warnings", []).append(text)


class MemoryGroup(TensorGroup):
    """A tensor that is in memory already.

    Args:
        experts: the experts' tensors, of one shape.
        base: the base's tensor.
        factors: for experts that are adapters, (B, A) with delta = B A; ``None`` for the others.
    """

    def __init__(
        self,
        experts: Sequence[torch.Tensor],
        base: torch.Tensor | None = None,
        *,
        factors: Sequence[tuple[torch.Tensor, torch.Tensor] | None] = (),
        name: str = "tensor",
        seed: int = 0,
        block_elements: int = BLOCK_ELEMENTS,
    ) -> None:
        shape = tuple((base if base is not None else experts[0]).shape)
        for place, expert in enumerate(experts):
            if tuple(expert.shape) != shape:
                raise MergeError(
                    f"expert {place} has the shape {list(expert.shape)}, not {list(shape)}", where=name
                )
        super().__init__(name, shape, len(experts), seed, block_elements)
        self._base = None if base is None else self._matrix(base)
        self._experts = [self._matrix(expert) for expert in experts]
        self._factors = list(factors) or [None] * len(experts)

    def _matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(torch.float32).reshape(self.rows, self.columns)

    @property
    def has_base(self) -> bool:
        return self._base is not None

    def load(self, row: int, rows: int) -> Block:
        part = slice(row, row + rows)
        return Block(
            row,
            row * self.columns,
            None if self._base is None else self._base[part],
            tuple(expert[part] for expert in self._experts),
            (None,) * self.count,
        )

    def factors(self, expert: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        return self._factors[expert]

    def merged(self, merge: Merged) -> torch.Tensor:
        """Run a method's function over all blocks; the tensor in its own shape, float32."""
        merged = [merge(block) for block in self.blocks()]
        return torch.cat(merged).reshape(self.shape) if merged else torch.empty(self.shape)
