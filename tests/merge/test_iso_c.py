import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import MergeError
from trivet.merge._group import MemoryGroup
from trivet.merge.iso_c import Config, merge


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(size, seed=0):
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


def group_of(deltas, base=None, **options):
    base = torch.zeros(deltas[0].shape) if base is None else base
    return MemoryGroup([base + delta for delta in deltas], base, **options)


def merged(group, **settings_):
    return group.merged(merge(Config(**settings_), group))


def experts(rows, columns, count=3, seed=0):
    return [normal(rows, columns, seed=10 * seed + t) for t in range(count)]


@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 4), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_it_equals_the_formula_with_a_full_decomposition(rows, columns, count, seed):
    deltas = experts(rows, columns, count, seed)
    U, S, Vh = torch.linalg.svd(sum(delta.double() for delta in deltas), full_matrices=False)
    group = group_of(deltas, block_elements=11)
    result = merged(group)
    assert torch.allclose(result.double(), S.mean() * U @ Vh, atol=1e-3 * float(S[0]))
    found = torch.linalg.svdvals(result.double())
    assert torch.allclose(found, S.mean().expand(len(S)), rtol=1e-4)
    assert group.notes["condition"] == pytest.approx(float(S[-1] / S[0]), abs=1e-5)


def test_the_closed_form_of_a_diagonal_matrix():
    deltas = [torch.diag(torch.tensor([4.0, 1.0, -1.0])), torch.diag(torch.tensor([2.0, 1.0, 0.0]))]
    # The sum is diag(6, 2, −1) with the singular values 6, 2, 1, mean 3: their signs stay.
    assert torch.allclose(merged(group_of(deltas)), torch.diag(torch.tensor([3.0, 3.0, -3.0])), atol=1e-5)
    assert torch.allclose(
        merged(group_of(deltas), alpha=(1.0, 0.0)), 2 * torch.diag(torch.tensor([1, 1, -1.0]))
    )


def test_steep_spectra_come_out_flat():
    values = 10 ** -torch.linspace(0, 3.5, 20)
    delta = (orthogonal(20) * values) @ orthogonal(50, 1)[:20]
    found = torch.linalg.svdvals(merged(group_of([delta])))
    assert torch.allclose(found, values.mean().expand(20), rtol=1e-4)


def test_a_low_rank_keeps_its_directions_only():
    factors = [(normal(20, 2, seed=t), normal(2, 30, seed=t + 9)) for t in range(3)]
    deltas = [B @ A for B, A in factors]
    values = torch.linalg.svdvals(sum(deltas))[:6]
    dense = group_of(deltas)
    found = torch.linalg.svdvals(merged(dense))
    assert dense.notes["ranks"] == [6]
    assert torch.allclose(found[:6], values.mean().expand(6), rtol=1e-4) and float(found[6]) < 1e-4
    adapters = group_of(deltas, factors=factors)
    adapters.whole = lambda: pytest.fail("a dense matrix was asked for")
    assert torch.allclose(merged(adapters), merged(dense), atol=1e-3)
    official = group_of(deltas)
    found = torch.linalg.svdvals(merged(official, rank="official"))
    assert official.notes["ranks"] == [20]
    assert torch.allclose(found, (values.sum() / 20).expand(20), rtol=1e-4)


def test_order_rotations_and_scale():
    deltas, Q, P, base = experts(15, 22), orthogonal(15, 7), orthogonal(22, 8), normal(15, 22, seed=9)
    plain = merged(group_of(deltas))
    assert torch.allclose(merged(group_of(deltas[::-1])), plain, atol=1e-4)
    assert torch.allclose(merged(group_of([Q @ delta @ P for delta in deltas])), Q @ plain @ P, atol=1e-3)
    assert torch.allclose(merged(group_of(deltas, base), alpha=1.3), base + 1.3 * plain, atol=1e-3)


def test_tensors_without_a_sum_and_tensors_that_are_no_matrices():
    delta, base = normal(8, 9), normal(8, 9, seed=1)
    assert torch.equal(merged(MemoryGroup([base, base], base)), base)
    for name, shape in (("norm.weight", (9,)), ("lm_head.weight", (8, 9)), ("conv.weight", (2, 3, 4))):
        deltas = [normal(*shape, seed=t) for t in range(3)]
        assert torch.allclose(merged(group_of(deltas, name=name)), sum(deltas) / 3, atol=1e-6)
    with pytest.raises(MergeError, match="base_model"):
        merge(Config(), MemoryGroup([delta]))
    delta[0, 0] = float("inf")
    with pytest.raises(MergeError, match=r"layer\.weight"):
        merge(Config(), group_of([delta], name="layer.weight"))
