"""The tree of RAIN: its nodes, how one is chosen, and how a value travels back to the root.

Symbols of the paper (arXiv 2309.07124, section 3) and of its released code: n ``visits``, fn ``full_visits``,
q ``value``, p ``prior``. Nothing here knows of a model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trivet.decode import _similarity
from trivet.models.operations import StopReason, Tokens

LOWEST, HIGHEST = -1.0, 1.0
"""Bounds of a value. The released code widens them by the values that it meets; those never leave them."""

_MARGIN = 1e-5  # of the released code, against a division by zero


@dataclass(frozen=True, slots=True)
class TokenSet:
    """A few tokens that are chosen or rejected together.

    ``tokens`` excludes the end-of-sequence token; ``ended`` says why the answer ends with them, where it
    does. ``probability``: of all of them under the truncated distribution that they were drawn from, before
    it is shared out among siblings. ``logprobs``, ``alternatives`` and ``end_token`` are as in a
    ``Continuation``.
    """

    tokens: Tokens
    probability: float = 1.0
    ended: StopReason | None = None
    logprobs: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    end_token: int | None = None

    @property
    def key(self) -> tuple[Tokens, bool]:
        """What makes it another set than its siblings."""
        return self.tokens, self.ended == "stop"


@dataclass(frozen=True, slots=True)
class NextTokens:
    """The most likely next tokens, most likely first.

    ``logprobs``: natural logarithms under the model's own distribution; ``adjusted``: after the penalties and
    the bias of the request, by which they are ranked and drawn.
    """

    tokens: np.ndarray
    adjusted: np.ndarray
    logprobs: np.ndarray


@dataclass(eq=False)
class Node:
    """A token set in the tree.

    ``depth``: token sets since the root of the whole answer. ``visits`` holds fractions of a visit that
    similar siblings passed on, ``full_visits`` the visits alone. ``weight`` is the part of the visits that
    had a value; it equals ``visits`` unless an evaluation failed. ``embedding`` is the mean, over its full
    visits, of the embedding of the text from here on. ``states``: sum of the hidden states of its own tokens.
    """

    token_set: TokenSet
    depth: int = 0
    prior: float = 1.0
    visits: float = 0.0
    full_visits: int = 0
    weight: float = 0.0
    value: float = 0.0
    embedding: np.ndarray | None = None
    children: "list[Node]" = field(default_factory=list)
    states: np.ndarray | None = None
    following: NextTokens | None = None


def token_set_length(depth: int, lengths: Sequence[int]) -> int:
    """Tokens of a set that is added below a node of this depth: 1, 2, 4, then 10 in the paper."""
    return lengths[min(depth, len(lengths) - 1)]


def clamped_greedy(greedy: float, sampled: Sequence[float]) -> float:
    """A greedy sequence's probability g among its sampled siblings: g ← min(g, Σ), g ← max(g, max + min)."""
    if not sampled:
        return greedy
    return max(min(greedy, sum(sampled)), max(sampled) + min(sampled))


def shares(probabilities: Sequence[float]) -> list[float]:
    """Probabilities divided by their sum; equal shares where all are 0."""
    total = sum(probabilities)
    if not (total > 0 and math.isfinite(total)):
        return [1 / len(probabilities)] * len(probabilities)
    return [probability / total for probability in probabilities]


def mixed_with_uniform(priors: Sequence[float], uniform: float) -> list[float]:
    """(1 − u) p + u / K, divided by its sum: what a root's children get, so that each is tried."""
    return shares([(1 - uniform) * prior + uniform / len(priors) for prior in priors])


def expand(node: Node, token_sets: Sequence[TokenSet], *, uniform: float = 0.0) -> None:
    """Give a node its children, with priors that sum to 1; ``uniform`` is mixed in where it is a root."""
    priors = shares([token_set.probability for token_set in token_sets])
    if uniform:
        priors = mixed_with_uniform(priors, uniform)
    node.children = [
        Node(token_set, node.depth + 1, prior) for token_set, prior in zip(token_sets, priors, strict=True)
    ]


def mix_root(node: Node, uniform: float) -> None:
    """Mix the priors of a node that has just become the root."""
    if node.children:
        mixed = mixed_with_uniform([child.prior for child in node.children], uniform)
        for child, prior in zip(node.children, mixed, strict=True):
            child.prior = prior


def add_child(node: Node, token_set: TokenSet, *, uniform: float = 0.0) -> bool:
    """Add one more child where it is not there yet; says whether it was added.

    Its prior is its share among all, mixed with the uniform distribution where the node is a root; those of
    the others stay, as in the released code.
    """
    if any(child.token_set.key == token_set.key for child in node.children):
        return False
    others = [child.token_set.probability for child in node.children]
    prior = shares([*others, token_set.probability])[-1]
    prior = (1 - uniform) * prior + uniform / (len(others) + 1)
    node.children.append(Node(token_set, node.depth + 1, prior))
    return True


def selection_score(child: Node, parent_visits: float, exploration: float) -> float:
    """Q + U: (q + 1) / 2 where the child was visited, 0 otherwise, and c · p · √n_parent / (1 + n).

    The paper's equation for the inner loop, with the constants of the released code.
    """
    explored = 0.0
    if child.weight > 0:
        explored = (child.value - LOWEST) / (HIGHEST - LOWEST + _MARGIN)
    return explored + exploration * child.prior * math.sqrt(parent_visits) / (1 + child.visits)


def select(node: Node, exploration: float) -> Node:
    """The child with the highest score, the first among equals."""
    return max(node.children, key=lambda child: selection_score(child, node.visits, exploration))


def best_child(node: Node) -> Node | None:
    """The most visited child, the one of the highest value among equals; ``None`` where there is none."""
    return max(node.children, key=lambda child: (child.visits, child.value), default=None)


def back_up(
    path: Sequence[Node],
    value: float | None,
    spans: Sequence[np.ndarray | None],
    *,
    similarity_weight: float,
    similarity_threshold: float,
) -> None:
    """Bring the value of a leaf back to the root.

    Args:
        path: root first, leaf last.
        value: of the evaluated text, −1 to 1; ``None`` where it could not be evaluated. Such a visit is
            counted and leaves the values as they are.
        spans: for each node of the path, the embedding of its tokens and all that followed them in this
            search, of length 1; ``None`` where there is none.
        similarity_weight: share of a visit that a sibling gets whose text means the same.
        similarity_threshold: cosine from which it does.

    For each node: n and fn grow by 1; its embedding moves to the mean over its visits; each *other* child s
    of its parent with cosine c ≥ threshold takes the value with weight w = similarity_weight · c,
    q_s ← (q_s n_s + w v) / (n_s + w), n_s ← n_s + w; then q ← q + (v − q) / n. The discount of the released
    code is 1 and its reward 0, so neither is here.
    """
    for place, node in enumerate(path):
        node.visits += 1
        node.full_visits += 1
        span = spans[place]
        if place and span is not None:
            node.embedding = _similarity.running_mean(node.embedding, span, node.full_visits)
        if value is None:
            continue
        if place and span is not None:
            for sibling in path[place - 1].children:
                cosine = _similarity.cosine(node.embedding, sibling.embedding)
                if sibling is not node and cosine >= similarity_threshold:
                    sibling.visits += similarity_weight * cosine
                    _take(sibling, value, similarity_weight * cosine)
        _take(node, value, 1.0)


def _take(node: Node, value: float, weight: float) -> None:
    """Add a value to the node's mean."""
    node.weight += weight
    node.value += weight * (value - node.value) / node.weight


def may_grow(node: Node, length: int, *, most: int, variance: float) -> bool:
    """Whether a node gets one more child: all are bad, and all say much the same.

    That is: fewer than ``most`` children, all with an embedding, the norm of the element-wise variance of the
    embeddings below ``variance`` times the token-set length, and every value below 0.
    """
    children = node.children
    if not children or len(children) >= most or max(child.value for child in children) >= 0:
        return False
    embeddings = [child.embedding for child in children if child.embedding is not None]
    if len(embeddings) < len(children):
        return False
    return _similarity.variance_norm(embeddings) < variance * length


def search_limit(inherited: int, searches: int, least: int) -> int:
    """How far the count of searches runs that starts at the visits that a root brings with it."""
    return max(searches, inherited + least)


def settled(best: Node | None, *, visits: int, value: float) -> bool:
    """Whether the best child may be committed before the limit: fn > ``visits`` and q > ``value``."""
    return best is not None and best.full_visits > visits and best.value > value
