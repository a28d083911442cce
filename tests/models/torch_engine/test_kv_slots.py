"""Slots: what is written is read back, wherever the sequence moves to."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.models.torch_engine.kv_slots import KVShape, KVSlots, Slot
from trivet.models.torch_engine.kv_tree import Segment

SHAPE = KVShape(layers=2, heads=2, key_width=3, value_width=1)


def _slots() -> KVSlots:
    return KVSlots(SHAPE, 500, torch.float32, torch.device("cpu"))


def _segment(value: float, count: int) -> Segment:
    return Segment(torch.full((2, 2, count, 3), value), torch.full((2, 2, count, 1), -value))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 200)), min_size=1, max_size=40))
def test_sequences_keep_their_values_through_growth_moves_and_compaction(
    actions: list[tuple[int, int]],
) -> None:
    """Each action grows one of ten sequences, or frees it when it would leave the context."""
    slots, live = _slots(), {}
    for step, (name, count) in enumerate(actions):
        if name in live and live[name][1] + count > 500:
            slots.free(live.pop(name)[0])
            continue
        slot, used, parts = live.get(name) or (slots.place(count), 0, [])
        slots.grow(slot, used, used + count)
        slots.write(slot, used, _segment(step + 1.0, count), count)
        live[name] = (slot, used + count, [*parts, (step + 1.0, count)])
        if step % 5 == 4:
            slots.compact([(slot, used) for slot, used, _ in live.values()])
    places = {(id(slot.pool), slot.index) for slot, _, _ in live.values()}
    assert len(places) == len(live)
    for slot, used, parts in live.values():
        found, at = slots.read(slot, 0, used), 0
        for value, count in parts:
            assert (found.keys[:, :, at : at + count] == value).all()
            assert (found.values[:, :, at : at + count] == -value).all()
            at += count


def test_compaction_closes_holes() -> None:
    slots = _slots()
    placed = [slots.place(10) for _ in range(12)]
    for index, slot in enumerate(placed):
        slots.write(slot, 0, _segment(float(index), 10), 10)
    for slot in placed[:9]:
        slots.free(slot)
    kept: list[tuple[Slot, int]] = [(slot, 10) for slot in placed[9:]]
    slots.compact(kept)
    assert sorted(slot.index for slot, _ in kept) == [0, 1, 2]
    assert [float(slots.read(slot, 0, 10).keys[0, 0, 0, 0]) for slot, _ in kept] == [9.0, 10.0, 11.0]


def test_a_large_empty_pool_gives_its_memory_back() -> None:
    slots = KVSlots(KVShape(30, 3, 64, 64), 500, torch.float32, torch.device("cpu"))
    placed = [slots.place(300, expected=16) for _ in range(16)]
    pool = placed[0].pool
    assert len(pool.used) == 16 and pool.keys.nbytes > 2**26
    for slot in placed:
        slots.free(slot)
    assert pool.keys.nbytes == 0
    assert slots.place(300).pool is pool


def test_bytes_of_a_slot() -> None:
    # 2 layers, 2 heads, 3 + 1 numbers of 4 bytes, in a slot of 192 positions.
    assert _slots().nbytes(150) == 2 * 2 * 4 * 4 * 192
    assert _slots().nbytes(10**9) == 2 * 2 * 4 * 4 * 500
