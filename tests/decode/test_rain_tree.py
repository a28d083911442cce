"""RAIN's tree: every update against numbers worked out by hand, and the card's identities."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from trivet.decode import _similarity
from trivet.decode._rain_tree import (
    Node,
    TokenSet,
    add_child,
    back_up,
    best_child,
    clamped_greedy,
    expand,
    may_grow,
    mix_root,
    mixed_with_uniform,
    search_limit,
    select,
    selection_score,
    settled,
    shares,
    token_set_length,
)

EAST, NORTH, NEAR_EAST = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.96, 0.28])


def tree_of(*probabilities: float, uniform: float = 0.0) -> Node:
    root = Node(TokenSet(()))
    expand(root, [TokenSet((i,), p) for i, p in enumerate(probabilities)], uniform=uniform)
    return root


def visit(path: list[Node], value: float | None, *spans: np.ndarray, weight: float = 0.2) -> None:
    back_up(path, value, [None, *spans], similarity_weight=weight, similarity_threshold=0.95)


def test_a_hand_worked_tree() -> None:
    """Three children a, b, c with priors 0.5, 0.3, 0.2; c = 2; all numbers are worked out on paper."""
    root = tree_of(0.5, 0.3, 0.2)
    a, b, c = root.children
    visit([root], 0.0)  # the search that expanded the root
    assert (root.visits, root.full_visits, root.value) == (1, 1, 0)

    # All are unvisited: Q = 0, U = 2 p √1 / 1 = 1.0, 0.6, 0.4.
    assert [selection_score(x, root.visits, 2.0) for x in (a, b, c)] == pytest.approx([1.0, 0.6, 0.4])
    assert select(root, 2.0) is a
    visit([root, a], -1.0, EAST)
    assert (a.visits, a.full_visits, a.value) == (1, 1, -1)
    assert (root.visits, root.value) == (2, -0.5)

    # a: Q = (−1 + 1)/2.00001 = 0, U = 2·0.5·√2/2 = 0.70711; b: 0.84853; c: 0.56569.
    expected = [0.7071068, 0.8485281, 0.5656854]
    assert [selection_score(x, root.visits, 2.0) for x in (a, b, c)] == pytest.approx(expected)
    assert select(root, 2.0) is b
    # b says nearly what a says: cosine 0.96 ≥ 0.95, so a gets w = 0.2·0.96 = 0.192 of the value 1:
    # q_a = (−1·1 + 0.192·1)/1.192 = −0.677852, n_a = 1.192; its full visits stay 1.
    visit([root, b], 1.0, NEAR_EAST)
    assert (a.visits, a.full_visits) == (pytest.approx(1.192), 1)
    assert a.value == pytest.approx(-0.808 / 1.192)
    assert (b.visits, b.full_visits, b.value) == (1, 1, 1)
    assert root.value == pytest.approx(0.0)  # (0 − 1 + 1)/3

    # a: Q = 0.322148/2.00001 = 0.161073, U = 2·0.5·√3/2.192 = 0.790169; b: Q = 0.999995, U = 0.519615;
    # c: U = 0.692820.
    expected = [0.951242, 1.519610, 0.692820]
    assert [selection_score(x, root.visits, 2.0) for x in (a, b, c)] == pytest.approx(expected, abs=1e-6)

    # Under b: two children; d (0.9) is taken, says something else than e, and what b says turns north:
    # mean of (0.96, 0.28) and (0, 1) = (0.48, 0.64), whose cosine with a is 0.6: a learns nothing.
    expand(b, [TokenSet((7,), 0.9), TokenSet((8,), 0.1)])
    d, e = b.children
    assert select(b, 2.0) is d
    visit([root, b, d], 0.0, NORTH, NORTH)
    assert b.embedding == pytest.approx([0.48, 0.64])
    assert (b.visits, b.full_visits, b.value) == (2, 2, 0.5)
    assert (d.visits, d.value, e.visits) == (1, 0, 0)
    assert a.visits == pytest.approx(1.192)
    assert (root.visits, root.value) == (4, 0)

    # c points east, as a does: a gets w = 0.2 of −1, q_a = (−0.808 − 0.2)/1.392 = −0.724138; b (cosine 0.48)
    # gets nothing.
    visit([root, c], -1.0, EAST)
    assert (a.visits, a.value) == (pytest.approx(1.392), pytest.approx(-1.008 / 1.392))
    assert (b.visits, b.value) == (2, 0.5)
    assert best_child(root) is b
    assert root.full_visits - 1 == sum(child.full_visits for child in root.children)


def test_an_unvisited_child_scores_by_its_prior_alone() -> None:
    child = Node(TokenSet((1,)), prior=0.3)
    assert selection_score(child, 9.0, 2.0) == pytest.approx(2 * 0.3 * 3)


def test_credit_from_siblings_alone_counts_as_visited() -> None:
    child = Node(TokenSet((1,)), prior=0.3, visits=0.2, weight=0.2, value=1.0)
    assert selection_score(child, 9.0, 2.0) == pytest.approx(2 / 2.00001 + 1.8 / 1.2)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-1, 1)), min_size=1, max_size=40))
def test_without_similarity_a_value_is_the_mean_of_what_came_back(searches: list[tuple[int, float]]) -> None:
    root = tree_of(1, 1, 1)
    visit([root], 0.0)
    for which, value in searches:
        visit([root, root.children[which]], value, EAST, weight=0.0)
    for which, child in enumerate(root.children):
        values = [value for index, value in searches if index == which]
        assert child.full_visits == len(values) == child.visits
        assert child.value == pytest.approx(np.mean(values) if values else 0.0, abs=1e-9)
    assert root.value == pytest.approx(sum(value for _, value in searches) / (1 + len(searches)), abs=1e-9)
    assert sum(child.full_visits for child in root.children) == root.full_visits - 1


def test_an_equal_sibling_gets_a_fifth_of_a_visit_and_a_dissimilar_one_nothing() -> None:
    root = tree_of(1, 1, 1)
    first, second, third = root.children
    visit([root, first], 0.5, EAST)
    visit([root, third], -0.5, np.array([0.949, math.sqrt(1 - 0.949**2)]))
    before = (third.visits, third.value)
    assert (first.visits, first.value) == (1, 0.5), "0.949 is below 0.95"
    visit([root, second], -1.0, EAST)
    assert first.visits == pytest.approx(1.2)
    assert first.value == pytest.approx((0.5 * 1 + 0.2 * -1) / 1.2)
    assert first.full_visits == 1
    assert (third.visits, third.value) == before


def test_a_sibling_that_nobody_visited_learns_nothing() -> None:
    root = tree_of(1, 1)
    visit([root, root.children[0]], 1.0, EAST)
    assert (root.children[1].visits, root.children[1].value) == (0, 0)


def test_a_failed_evaluation_is_a_visit_without_a_value() -> None:
    root = tree_of(1, 1)
    first, second = root.children
    visit([root, second], 1.0, EAST)
    visit([root, first], None, EAST)
    assert (first.visits, first.full_visits, first.weight, first.value) == (1, 1, 0, 0)
    assert (second.visits, second.value) == (1, 1), "what is not known is not passed on"
    assert selection_score(first, 4.0, 2.0) == pytest.approx(2 * 0.5 * 2 / 2), "no value, no Q"
    visit([root, first], -1.0, NORTH)
    assert (first.visits, first.value) == (2, -1), "the mean of the one value that there is"


def test_a_node_without_text_has_no_embedding() -> None:
    root = tree_of(1, 1)
    back_up([root, root.children[0]], 1.0, [None, None], similarity_weight=0.2, similarity_threshold=0.95)
    assert root.children[0].embedding is None and root.children[0].value == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_priors_sum_to_1_and_the_roots_are_not_small(probabilities: list[float]) -> None:
    assert sum(child.prior for child in tree_of(*probabilities).children) == pytest.approx(1)
    root = tree_of(*probabilities, uniform=0.25)
    assert sum(child.prior for child in root.children) == pytest.approx(1)
    assert min(child.prior for child in root.children) >= 0.25 / len(probabilities) - 1e-12


def test_a_new_root_is_mixed_once() -> None:
    node = tree_of(0.8, 0.2)
    mix_root(node, 0.25)
    assert [child.prior for child in node.children] == pytest.approx([0.725, 0.275])
    assert mixed_with_uniform([0.8, 0.2], 0.25) == pytest.approx([0.725, 0.275])
    mix_root(Node(TokenSet(())), 0.25)  # nothing to mix yet


def test_probabilities_that_underflow_are_shared_equally() -> None:
    assert shares([0.0, 0.0]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("greedy", "sampled", "clamped"),
    [
        (0.5, [0.1, 0.2], 0.3),  # not more than the others together
        (0.25, [0.1, 0.2], 0.3),  # at least the largest and the smallest
        (0.01, [0.1, 0.2, 0.05], 0.25),
        (0.3, [0.1, 0.2, 0.05], 0.3),
        (0.5, [0.1], 0.2),
        (0.5, [], 0.5),
    ],
)
def test_the_greedy_sequence_is_clamped(greedy: float, sampled: list[float], clamped: float) -> None:
    assert clamped_greedy(greedy, sampled) == pytest.approx(clamped)


def test_token_sets_have_1_2_4_then_10_tokens() -> None:
    assert [token_set_length(depth, (1, 2, 4, 10)) for depth in range(6)] == [1, 2, 4, 10, 10, 10]
    root = tree_of(1)
    expand(root.children[0], [TokenSet((5,))])
    assert root.children[0].children[0].depth == 2


def grown(values: list[float], embeddings: list[np.ndarray | None]) -> Node:
    root = tree_of(*[1.0] * len(values))
    for child, value, embedding in zip(root.children, values, embeddings):
        child.value, child.embedding = value, embedding
    return root


def test_a_node_grows_only_where_all_is_bad_and_alike() -> None:
    def grows(node: Node, length: int = 1, most: int = 20) -> bool:
        return may_grow(node, length, most=most, variance=0.03)

    # Element-wise variance (n − 1) of (1, 0) and (0.96, 0.28): 0.0008 and 0.0392, norm 0.0392.
    assert _similarity.variance_norm([EAST, NEAR_EAST]) == pytest.approx(math.hypot(0.0008, 0.0392))
    assert grows(grown([-1, -0.1], [EAST, EAST]))
    assert not grows(grown([-1, -0.1], [EAST, NEAR_EAST])), "0.0392 is not below 0.03 · 1"
    assert grows(grown([-1, -0.1], [EAST, NEAR_EAST]), length=2)
    assert not grows(grown([-1, 0.0], [EAST, EAST])), "one is not bad"
    assert not grows(grown([-1, -1], [EAST, None])), "one is not known"
    assert not grows(grown([-1], [EAST])), "one alone has no variance: a single candidate stays greedy"
    assert not grows(grown([-1] * 20, [EAST] * 20)), "never beyond 20"
    assert not grows(Node(TokenSet(()))), "nothing to judge by"


def test_a_child_is_added_once_with_its_share() -> None:
    root = tree_of(0.6, 0.2)
    priors = [child.prior for child in root.children]
    assert not add_child(root, TokenSet((1,), 0.2))
    assert add_child(root, TokenSet((9,), 0.2), uniform=0.25)
    assert root.children[-1].prior == pytest.approx(0.75 * 0.2 / 1.0 + 0.25 / 3)
    assert [child.prior for child in root.children[:2]] == priors
    assert add_child(root, TokenSet((9,), 0.1, "stop")), "the same tokens, and there the answer ends"


def test_the_best_child_has_most_visits_then_the_higher_value_then_comes_first() -> None:
    root = tree_of(1, 1, 1)
    first, second, third = root.children
    assert best_child(root) is first
    third.visits, third.value = 2.0, -1.0
    second.visits, second.value = 2.0, 0.5
    assert best_child(root) is second
    third.visits = 2.2  # fractions count in this choice
    assert best_child(root) is third
    assert best_child(Node(TokenSet(()))) is None


def test_the_search_ends_early_on_full_visits_not_on_fractions() -> None:
    child = Node(TokenSet((1,)), visits=9.0, full_visits=6, value=1.0)
    assert not settled(child, visits=6, value=0.8)
    child.full_visits = 7
    assert settled(child, visits=6, value=0.8)
    child.value = 0.8
    assert not settled(child, visits=6, value=0.8)
    assert not settled(None, visits=6, value=0.8)


def test_at_least_15_searches_follow_a_shift() -> None:
    assert search_limit(0, 50, 15) == 50
    assert search_limit(20, 50, 15) == 50
    assert search_limit(48, 50, 15) == 63


def test_embeddings() -> None:
    span = _similarity.span_embedding(np.array([3.0, 4.0]), 2)
    assert span == pytest.approx([0.6, 0.8])
    assert _similarity.span_embedding(np.zeros(2), 2) is None
    assert _similarity.span_embedding(np.array([np.nan, 1.0]), 2) is None
    assert _similarity.span_embedding(np.ones(2), 0) is None
    assert _similarity.running_mean(None, EAST, 3) is not EAST
    assert _similarity.running_mean(EAST, NORTH, 4) == pytest.approx([0.75, 0.25])
    assert _similarity.cosine(EAST, None) == 0.0
    assert _similarity.cosine(EAST, np.zeros(2)) == 0.0
    assert _similarity.cosine(EAST, NEAR_EAST) == pytest.approx(0.96)
