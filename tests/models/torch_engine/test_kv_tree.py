"""The KV tree against a dictionary: every prefix that was stored gives back exactly its keys and values."""

import gc

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.models.torch_engine.kv_tree import KVTree, Node, Segment, SharedBudget, common_length

_LAYERS, _HEADS, _WIDTH = 2, 1, 3
_BYTES_A_TOKEN = 2 * 4 * _LAYERS * _HEADS * _WIDTH

sequences = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)


def _position(prefix: tuple[int, ...]) -> torch.Tensor:
    """Keys of a position depend on its whole prefix, as a model's do."""
    value = float(hash(prefix) % 100_003)
    return torch.full((_LAYERS, _HEADS, _WIDTH), value)


def _segment(tokens: tuple[int, ...], start: int, end: int) -> Segment:
    keys = torch.stack([_position(tokens[: i + 1]) for i in range(start, end)], dim=2)
    return Segment(keys, -keys)


def _insert(tree: KVTree, tokens: tuple[int, ...]) -> Node:
    return tree.insert(tokens, lambda start, end: _segment(tokens, start, end))


def _check_match(tree: KVTree, tokens: tuple[int, ...], expected: int) -> None:
    length, segments = tree.match(tokens, len(tokens))
    assert length == expected
    if length:
        keys = torch.cat([segment.keys for segment in segments], dim=2)[:, :, :length]
        values = torch.cat([segment.values for segment in segments], dim=2)[:, :, :length]
        whole = _segment(tokens, 0, length)
        assert torch.equal(keys, whole.keys) and torch.equal(values, whole.values)


@given(st.lists(sequences, min_size=1, max_size=15), sequences)
def test_matches_the_longest_stored_prefix(stored: list[tuple[int, ...]], asked: tuple[int, ...]) -> None:
    tree = KVTree(budget=10**9)
    known = set()
    for tokens in stored:
        _insert(tree, tokens)
        known |= {tokens[:end] for end in range(1, len(tokens) + 1)}
    for tokens in [*stored, asked]:
        expected = max((end for end in range(len(tokens) + 1) if tokens[:end] in known), default=0)
        _check_match(tree, tokens, expected)
    assert tree.nbytes == len(known) * _BYTES_A_TOKEN  # each position is stored once


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(["insert", "hold", "release"]), sequences), max_size=30),
    st.integers(0, 12),
)
def test_eviction_keeps_what_is_held_and_meets_the_budget(
    actions: list[tuple[str, tuple[int, ...]]], budget: int
) -> None:
    tree = KVTree(budget * _BYTES_A_TOKEN)
    held: list[tuple[tuple[int, ...], Node]] = []
    for action, tokens in actions:
        if action == "release" and held:
            tree.release(held.pop()[1])
            tree.evict()
        elif action == "hold":
            tree.budget = 10**9  # storing and holding is one step of the engine
            node = _insert(tree, tokens)
            tree.hold(node)
            tree.budget = budget * _BYTES_A_TOKEN
            held.append((tokens, node))
            tree.evict()
        else:
            _insert(tree, tokens)
        needed = {kept[:end] for kept, _ in held for end in range(1, len(kept) + 1)}
        # A held node may reach beyond the held tokens only where it was not cut: never, since insert cuts.
        assert tree.nbytes <= max(budget, len(needed)) * _BYTES_A_TOKEN
        for kept, _ in held:
            _check_match(tree, kept, len(kept))


def test_the_least_recently_used_leaf_goes_first() -> None:
    tree = KVTree(budget=4 * _BYTES_A_TOKEN)
    _insert(tree, (0, 1))
    _insert(tree, (1, 1))
    tree.match((0, 1), 2)  # now (1, 1) is the older one
    _insert(tree, (2, 1))
    _check_match(tree, (0, 1), 2)
    _check_match(tree, (1, 1), 0)
    _check_match(tree, (2, 1), 2)


def test_trees_share_a_budget_in_equal_parts_while_they_live() -> None:
    shared = SharedBudget(8 * _BYTES_A_TOKEN)
    first, second = KVTree(shared), KVTree(shared)
    for tree in (first, second):
        for number in range(6):
            _insert(tree, (number,))
        assert tree.nbytes == 4 * _BYTES_A_TOKEN
    del second, tree
    gc.collect()
    for number in range(10):
        _insert(first, (number,))
    assert first.nbytes == 8 * _BYTES_A_TOKEN


def test_a_limit_bounds_the_match() -> None:
    tree = KVTree(budget=10**9)
    _insert(tree, (1, 2, 3))
    assert tree.match((1, 2, 3), 2)[0] == 2


@given(sequences, sequences)
def test_common_length(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    expected = 0
    while expected < min(len(first), len(second)) and first[expected] == second[expected]:
        expected += 1
    assert common_length(first, second) == expected
