"""Keys and values of the sequences that are running, laid out for attention over many of them at once.

A running sequence has a slot in a pool; all slots of a pool have the same capacity, so that one attention
call covers all sequences of a pool with no copy and little padding. A sequence that outgrows its slot moves
to the pool of the next capacity. Positions are written in place.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from trivet.models.torch_engine.kv_tree import Segment

_SMALLEST = 128
_FIRST_SLOTS = 4
_KEPT_BYTES = 64 * 1024**2  # an empty pool of this size stays, so that single requests allocate nothing


@dataclass(frozen=True)
class KVShape:
    """What one position needs: layers, key-value heads, width of a key and of a value."""

    layers: int
    heads: int
    key_width: int
    value_width: int


class Pool:
    """Slots of one capacity. ``keys`` and ``values``: [layers, slots, heads, capacity, width]."""

    def __init__(self, shape: KVShape, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.capacity = shape, capacity
        self._dtype, self._device = dtype, device
        self.used: list[bool] = []
        self._allocate(0)

    def _allocate(self, slots: int) -> None:
        whole = (self.shape.layers, slots, self.shape.heads, self.capacity)
        self.keys = _zeros((*whole, self.shape.key_width), self._dtype, self._device)
        self.values = _zeros((*whole, self.shape.value_width), self._dtype, self._device)

    def take(self, expected: int = 0) -> int:
        """The lowest free slot; where there is none the pool grows, to ``expected`` slots or by half."""
        if False not in self.used:
            old_keys, old_values, count = self.keys, self.values, len(self.used)
            slots = max(_FIRST_SLOTS, expected, count + count // 2)
            self._allocate(slots)
            self.keys[:, :count] = old_keys
            self.values[:, :count] = old_values
            self.used += [False] * (slots - count)
        index = self.used.index(False)
        self.used[index] = True
        return index

    def free(self, index: int) -> None:
        """Give a slot back; a large pool that is empty gives its memory back."""
        self.used[index] = False
        if not any(self.used) and self.keys.nbytes + self.values.nbytes > _KEPT_BYTES:
            self.used = []
            self._allocate(0)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    # Zeros, not empty: positions that the mask hides still enter the products, and NaN times zero is NaN.
    if device.type != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    # On a CPU the memory comes zeroed from the operating system, page by page as it is used.
    memory = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(memory).view(dtype).view(shape)


@dataclass(eq=False)
class Slot:
    """A running sequence's place."""

    pool: Pool
    index: int


class KVSlots:
    """All pools of one model."""

    def __init__(self, shape: KVShape, context_length: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self._context = context_length
        self.dtype, self._device = dtype, device
        self._pools: dict[int, Pool] = {}

    def nbytes(self, length: int) -> int:
        """Bytes of a slot that holds ``length`` positions."""
        width = self.shape.key_width + self.shape.value_width
        return self.shape.layers * self.shape.heads * width * self.dtype.itemsize * self._capacity(length)

    def place(self, length: int, expected: int = 0) -> Slot:
        """A slot for a sequence of ``length`` positions, one of ``expected`` sequences of any length."""
        pool = self._pool(length)
        return Slot(pool, pool.take(expected))

    def grow(self, slot: Slot, used: int, length: int) -> None:
        """Make room for ``length`` positions; the first ``used`` are kept."""
        if length <= slot.pool.capacity:
            return
        pool = self._pool(length)
        self._move(slot, pool, pool.take(), used)

    def compact(self, slots: list[tuple[Slot, int]]) -> None:
        """Move sequences (with their lengths) down into holes where a pool has become sparse."""
        for pool in self._pools.values():
            mine = sorted(
                (pair for pair in slots if pair[0].pool is pool), key=lambda pair: pair[0].index, reverse=True
            )
            if not mine or mine[0][0].index + 1 - len(mine) <= max(2, len(mine) // 4):
                continue
            for slot, used in mine:
                hole = pool.used.index(False) if False in pool.used else slot.index
                if hole >= slot.index:
                    break
                pool.used[hole] = True
                self._move(slot, pool, hole, used)

    def write(self, slot: Slot, start: int, segment: Segment, count: int) -> None:
        """Copy the first ``count`` positions of a segment to ``start``."""
        slot.pool.keys[:, slot.index, :, start : start + count] = segment.keys[:, :, :count]
        slot.pool.values[:, slot.index, :, start : start + count] = segment.values[:, :, :count]

    def read(self, slot: Slot, start: int, end: int) -> Segment:
        """A copy of positions ``start`` to ``end``."""
        return Segment(
            slot.pool.keys[:, slot.index, :, start:end].clone(),
            slot.pool.values[:, slot.index, :, start:end].clone(),
        )

    def free(self, slot: Slot) -> None:
        """Give a slot back."""
        slot.pool.free(slot.index)

    def _move(self, slot: Slot, pool: Pool, index: int, used: int) -> None:
        pool.keys[:, index, :, :used] = slot.pool.keys[:, slot.index, :, :used]
        pool.values[:, index, :, :used] = slot.pool.values[:, slot.index, :, :used]
        slot.pool.free(slot.index)
        slot.pool, slot.index = pool, index

    def _capacity(self, length: int) -> int:
        # Capacities 128, 192, 256, 384, 512, …: a slot is at most half empty, and moves are few.
        capacity = _SMALLEST
        while capacity < length:
            capacity = capacity * 3 // 2 if capacity & (capacity - 1) == 0 else capacity * 4 // 3
        return min(capacity, self._context)

    def _pool(self, length: int) -> Pool:
        capacity = self._capacity(length)
        if capacity not in self._pools:
            self._pools[capacity] = Pool(self.shape, capacity, self.dtype, self._device)
        return self._pools[capacity]
