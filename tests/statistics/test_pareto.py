import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trivet.statistics.pareto import dominance, hypervolume, on_front

points = st.integers(1, 3).flatmap(
    lambda d: st.integers(1, 6).flatmap(
        lambda s: arrays(np.float64, (s, d), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    )
)


def test_dominance_with_ties_by_hand():
    values = [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert on_front(values).tolist() == [True, True, False, True]
    assert dominance(values)[0].tolist() == [False, False, True, False]


def test_rounding_does_not_make_a_difference():
    assert on_front([[0.1 + 0.2, 1.0], [0.3, 1.0]]).tolist() == [True, True]


@given(points)
def test_the_front_is_never_empty_and_dominance_is_a_strict_order(values):
    dominates = dominance(values)
    assert on_front(values).any()
    assert not np.any(dominates & dominates.T)
    assert np.all(dominates[(dominates[:, :, None] & dominates[None]).any(axis=1)])


def test_hypervolume_by_hand():
    assert hypervolume([[0.5, 0.5, 0.5]], [0, 0, 0]) == pytest.approx(0.125)
    # two boxes of area 2 that overlap in 1
    assert hypervolume([[2, 1], [1, 2]], [0, 0]) == pytest.approx(3)
    assert hypervolume([[2, 1], [1, 2]], [1, 0]) == pytest.approx(1)
    assert hypervolume([[1.0], [3.0]], [0.5]) == pytest.approx(2.5)
    assert hypervolume([[-1.0, 5.0]], [0, 0]) == 0


@pytest.mark.parametrize("axes", [2, 3])
def test_hypervolume_against_monte_carlo(axes):
    generator = np.random.default_rng(axes)
    values = generator.random((7, axes))
    darts = generator.random((200_000, axes))
    hit = np.zeros(len(darts), dtype=bool)
    for value in values:
        hit |= np.all(darts <= value, axis=1)
    assert float(hypervolume(values, np.zeros(axes))) == pytest.approx(hit.mean(), abs=0.004)


@given(points)
def test_hypervolume_rests_on_the_front_alone(values):
    corner = np.zeros(values.shape[1])
    whole = hypervolume(values, corner)
    assert whole == pytest.approx(hypervolume(values[on_front(values)], corner))
    assert whole <= values.max(axis=0).prod() + 1e-12
    assert whole >= values.prod(axis=1).max() - 1e-12


def test_replicates_are_computed_at_once():
    values = np.random.default_rng(0).random((50, 5, 3))
    each = [float(hypervolume(value, np.zeros(3))) for value in values]
    assert hypervolume(values, np.zeros(3)) == pytest.approx(np.array(each))
    assert on_front(values).tolist() == [on_front(value).tolist() for value in values]


@pytest.mark.parametrize(
    "call",
    [
        lambda: hypervolume(np.ones((2, 4)), np.zeros(4)),
        lambda: hypervolume(np.ones((2, 3)), np.zeros(2)),
        lambda: on_front([1.0, 2.0]),
        lambda: on_front([[float("nan"), 1.0]]),
    ],
)
def test_malformed_points_are_refused(call):
    with pytest.raises(ValueError):
        call()
