import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import MergeError
from trivet.merge._group import MemoryGroup
from trivet.merge._spectral import TaskMatrix
from trivet.merge.wudi import Config, cross_term, input_root, interference, merge


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def group_of(deltas, base=None, **options):
    base = torch.zeros(deltas[0].shape) if base is None else base
    return MemoryGroup([base + delta for delta in deltas], base, **options)


def merged(group, **settings_):
    return group.merged(merge(Config(**settings_), group))


def experts(rows, columns, count=3, seed=0):
    return [1e-3 * normal(rows, columns, seed=10 * seed + t) for t in range(count)]


def loss(M, deltas):
    """The paper's objective, term by term."""
    return sum(((M - D) @ D.T).square().sum() / D.square().sum() for D in deltas)


def textbook(deltas, steps, learning_rate):
    """Adam through automatic differentiation of the objective."""
    M = torch.nn.Parameter(sum(deltas).clone())
    optimizer = torch.optim.Adam([M], lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(M, deltas).backward()
        optimizer.step()
    return M.detach()


@pytest.mark.parametrize(("rows", "columns"), [(12, 20), (20, 12), (3, 40)])
def test_it_follows_automatic_differentiation_of_the_objective(rows, columns):
    deltas = experts(rows, columns)
    group = group_of(deltas)
    ours = merged(group, steps=60)
    start, expected = sum(deltas), textbook(deltas, 60, 1e-5)
    assert torch.allclose(ours, expected, atol=2e-6)
    assert float((expected - start).abs().max()) > 2e-4, "it moves"
    before, after = group.notes["interference"]
    assert before == pytest.approx(float(loss(start, deltas)), rel=1e-4)
    assert after == pytest.approx(float(loss(expected, deltas)), rel=1e-2)
    assert after < 0.9 * before


def test_the_gradient_at_the_sum_by_automatic_differentiation():
    deltas = [normal(6, 9, seed=t) for t in range(3)]
    M = sum(deltas).clone().requires_grad_()
    loss(M, deltas).backward()
    matrices = [TaskMatrix(delta) for delta in deltas]
    roots = [input_root(matrix) for matrix in matrices]
    assert torch.allclose(2 * cross_term(matrices, roots), M.grad, atol=1e-4)
    M = M.detach()
    assert interference(M, matrices, roots) == pytest.approx(float(loss(M, deltas)), rel=1e-5)


def test_one_expert_is_returned_exactly():
    delta, base = 1e-3 * normal(12, 20), normal(12, 20, seed=5)
    expert = base + delta
    assert torch.equal(merged(MemoryGroup([expert], base)), base + (expert - base))
    assert torch.equal(merged(group_of([delta])), delta)


def test_experts_that_see_different_inputs_add_up():
    deltas = experts(8, 12)
    for place, delta in enumerate(deltas):
        delta[:, : 4 * place] = 0
        delta[:, 4 * place + 4 :] = 0
    group = group_of(deltas)
    assert torch.equal(merged(group), sum(deltas))
    assert group.notes["interference"] == [0.0, 0.0]
    turn = torch.linalg.qr(normal(12, 12, seed=9)).Q  # rounding of the turned experts must not be blown up
    turned = [delta @ turn for delta in deltas]
    assert torch.allclose(merged(group_of(turned)), sum(turned), atol=1e-5)


def test_opposite_experts_stay_at_zero():
    delta = experts(8, 12)[0]
    group = group_of([delta, -delta])
    # At M = 0 the two terms pull alike and apart: the gradient is 0, and the interference cannot be ended.
    assert torch.equal(merged(group), torch.zeros(8, 12))
    assert group.notes["interference"][0] == pytest.approx(
        2 * float(loss(torch.zeros(8, 12), [delta])), rel=1e-5
    )


def test_adapters_give_what_their_dense_product_gives():
    factors = [(0.03 * normal(20, 2, seed=t), 0.03 * normal(2, 30, seed=t + 9)) for t in range(3)]
    deltas = [B @ A for B, A in factors]
    dense, adapters, mixed = (
        group_of(deltas, factors=given) for given in ((), factors, [factors[0], None, factors[2]])
    )
    adapters.whole = lambda: pytest.fail("a dense matrix was asked for")
    expected = merged(dense, steps=50)
    assert float((expected - sum(deltas)).abs().max()) > 1e-4
    assert torch.allclose(merged(adapters, steps=50), expected, atol=2e-5)
    assert torch.allclose(merged(mixed, steps=50), expected, atol=2e-5)
    assert input_root(TaskMatrix(*factors[0])).shape == (2, 30)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.integers(0, 50))
@settings(deadline=None, max_examples=30)
def test_every_shape_ends_with_no_more_interference(rows, columns, count, seed):
    group = group_of(experts(rows, columns, count, seed), block_elements=5)
    result = merged(group, steps=30)
    before, after = group.notes["interference"]
    # At the optimum Adam still moves by a learning rate.
    assert result.isfinite().all() and after <= before + 1e-9


def test_it_is_deterministic_and_steps_are_obeyed():
    deltas = experts(10, 14)
    assert torch.equal(merged(group_of(deltas), steps=20), merged(group_of(deltas), steps=20))
    assert torch.equal(merged(group_of(deltas), steps=0), sum(deltas))
    moved = merged(group_of(deltas), steps=1, learning_rate=1e-4) - sum(deltas)
    assert float(moved.abs().max()) == pytest.approx(1e-4, rel=0.02)  # a first step of Adam


def test_what_it_leaves_alone_and_refuses():
    base, delta = normal(8, 9), 1e-3 * normal(8, 9, seed=1)
    assert torch.equal(merged(MemoryGroup([base, base], base)), base)
    silent = group_of([delta, torch.zeros(8, 9)])
    assert torch.allclose(merged(silent), delta, atol=1e-6)
    for name, shape in (("norm.weight", (9,)), ("lm_head.weight", (8, 9)), ("conv.weight", (2, 3, 4))):
        deltas = [normal(*shape, seed=t) for t in range(3)]
        assert torch.allclose(merged(group_of(deltas, name=name)), sum(deltas) / 3, atol=1e-6)
    with pytest.raises(MergeError, match="base_model"):
        merge(Config(), MemoryGroup([base]))
    delta[0, 0] = float("nan")
    with pytest.raises(MergeError, match=r"layer\.weight.*NaN"):
        merge(Config(), group_of([delta], name="layer.weight"))
