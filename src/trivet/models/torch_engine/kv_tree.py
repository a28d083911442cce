"""The KV tree: computed prefixes and their keys and values, shared by all requests of a model.

A radix tree over token ids. Each node holds the keys and values of its own stretch of tokens, so a prefix
that two requests share is stored once. Forking is a second look-up of the same node; rewinding is a look-up
of a shorter prefix. Leaves that no live request holds are dropped, least recently used first, when the budget
is exceeded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

import torch

from trivet.models.operations import Tokens


@dataclass
class Segment:
    """Keys and values of a stretch of tokens: [layers, heads, tokens, width] each."""

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def view(self, start: int, end: int) -> "Segment":
        """The tokens from ``start`` to ``end`` in the same memory."""
        return Segment(self.keys[:, :, start:end], self.values[:, :, start:end])

    def part(self, start: int, end: int) -> "Segment":
        """The tokens from ``start`` to ``end`` in memory of their own, so that the whole can be freed."""
        return Segment(self.keys[:, :, start:end].clone(), self.values[:, :, start:end].clone())


@dataclass(eq=False)
class Node:
    """One stretch of tokens. ``holders`` counts live requests that hold this node or one below it."""

    tokens: Tokens
    segment: Segment | None
    parent: "Node | None"
    children: dict[int, "Node"] = field(default_factory=dict)
    holders: int = 0
    used: int = 0


def common_length(first: Sequence[object], second: Sequence[object]) -> int:
    """Length of the longest common prefix."""
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:
        return shorter
    low, high = 0, shorter  # the slices compare in C; a loop in Python would not
    while low + 1 < high:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


class SharedBudget:
    """Bytes that the trees of all engines in a process share, in equal parts."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._trees: WeakSet[KVTree] = WeakSet()

    def join(self, tree: "KVTree") -> None:
        """Count one more tree, as long as it lives."""
        self._trees.add(tree)

    @property
    def part(self) -> int:
        """Bytes that each tree may keep."""
        return self._total // max(1, len(self._trees))


class KVTree:
    """Prefixes of one model. Used from the engine's thread alone.

    Args:
        budget: bytes of keys and values that may be kept; nodes held by live requests stay beyond it.
    """

    def __init__(self, budget: int | SharedBudget) -> None:
        self.budget = budget
        if isinstance(budget, SharedBudget):
            budget.join(self)
        self.nbytes = 0
        self._root = Node((), None, None)
        self._clock = 0

    def match(self, tokens: Tokens, limit: int) -> tuple[int, list[Segment]]:
        """The longest stored prefix of ``tokens``, at most ``limit`` long, and its segments in order.

        The last segment may reach beyond the length that is returned.
        """
        length, path = self._walk(tokens[:limit])
        self._touch(path[-1][0])
        return length, [node.segment for node, _ in path if node.segment is not None]

    def insert(self, tokens: Tokens, read: Callable[[int, int], Segment]) -> Node:
        """Store ``tokens``; ``read(start, end)`` gives the keys and values of what is not yet stored."""
        length, path = self._walk(tokens)
        node, inside = path[-1]
        if inside < len(node.tokens):
            node = self._split(node, inside)
        if length < len(tokens):
            segment = read(length, len(tokens))
            child = Node(tokens[length:], segment, node)
            node.children[tokens[length]] = child
            self.nbytes += segment.nbytes
            node = child
        self._touch(node)
        self.evict()
        return node

    def hold(self, node: Node) -> None:
        """Keep ``node`` and its ancestors until ``release``."""
        step: Node | None = node
        while step is not None:
            step.holders += 1
            step = step.parent

    def release(self, node: Node) -> None:
        """Undo one ``hold``."""
        step: Node | None = node
        while step is not None:
            step.holders -= 1
            step = step.parent

    def evict(self) -> None:
        """Drop leaves that nobody holds, least recently used first, until the budget is met."""
        while self.nbytes > self._allowed:
            leaves = [node for node in self._nodes() if not node.children and not node.holders]
            if not leaves:
                return
            for leaf in sorted(leaves, key=lambda node: node.used):
                if self.nbytes <= self._allowed:
                    return
                self._drop(leaf)

    @property
    def _allowed(self) -> int:
        return self.budget.part if isinstance(self.budget, SharedBudget) else self.budget

    def clear(self) -> None:
        """Forget everything."""
        self._root = Node((), None, None)
        self.nbytes = 0

    def _drop(self, leaf: Node) -> None:
        assert leaf.parent is not None and leaf.segment is not None
        del leaf.parent.children[leaf.tokens[0]]
        self.nbytes -= leaf.segment.nbytes

    def _walk(self, tokens: Tokens) -> tuple[int, list[tuple[Node, int]]]:
        """The matched length, and the nodes on the way with how much of each was matched."""
        node, length = self._root, 0
        path = [(node, 0)]
        while length < len(tokens):
            child = node.children.get(tokens[length])
            if child is None:
                break
            inside = common_length(child.tokens, tokens[length:])
            path.append((child, inside))
            length += inside
            if inside < len(child.tokens):
                break
            node = child
        return length, path

    def _split(self, node: Node, at: int) -> Node:
        """Cut ``node`` in two; the new upper half is returned."""
        assert node.parent is not None and node.segment is not None
        upper = Node(node.tokens[:at], node.segment.part(0, at), node.parent)
        upper.holders, upper.used = node.holders, node.used
        node.parent.children[node.tokens[0]] = upper
        node.segment = node.segment.part(at, len(node.tokens))
        node.tokens, node.parent = node.tokens[at:], upper
        upper.children[node.tokens[0]] = node
        return upper

    def _touch(self, node: Node) -> None:
        self._clock += 1
        step: Node | None = node
        while step is not None:
            step.used = self._clock
            step = step.parent

    def _nodes(self) -> list[Node]:
        found, stack = [], list(self._root.children.values())
        while stack:
            node = stack.pop()
            found.append(node)
            stack.extend(node.children.values())
        return found
