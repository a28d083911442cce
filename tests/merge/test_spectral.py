import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import MergeError
from trivet.merge._spectral import (
    TaskMatrix,
    complete_svd,
    overlap,
    polar_factor,
    thin_svd,
    tolerance,
    total,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(normal(rows, columns, seed=seed).double()).Q


def with_spectrum(rows, columns, values, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    U, V = orthonormal(rows, len(values), seed), orthonormal(columns, len(values), seed + 1)
    return ((U * values) @ V.T).float()


def is_orthonormal(X, tolerance=1e-5):
    return torch.allclose(X.T @ X, torch.eye(X.shape[1]), atol=tolerance)


@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 99), st.data())
@settings(deadline=None, max_examples=60)
def test_the_triplets_are_those_of_the_full_decomposition(rows, columns, seed, data):
    limit = data.draw(st.none() | st.integers(0, min(rows, columns)))
    matrix = normal(rows, columns, seed=seed)
    U, S, V = thin_svd(TaskMatrix(matrix), limit)
    expected = torch.linalg.svdvals(matrix.double())[:limit]
    expected = (
        expected[expected > expected.amax() * tolerance((rows, columns))] if len(expected) else expected
    )
    assert U.shape == (rows, len(S)) and V.shape == (columns, len(S))
    assert torch.allclose(S.double(), expected, rtol=0, atol=1e-5 * float(expected.sum() + 1e-9))
    assert torch.allclose(matrix @ V, U * S, atol=1e-4 * float(matrix.norm()))
    assert torch.allclose(matrix.T @ U, V * S, atol=1e-4 * float(matrix.norm()))
    assert is_orthonormal(U, 1e-4)


@pytest.mark.parametrize("exponent", [0.5, 1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("limit", [None, 8, 24])
@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (24, 24)])
def test_spectra_that_fall_steeply_are_exact_to_float32(exponent, limit, shape):
    values = 10 ** (-exponent * torch.linspace(0, 1, 24, dtype=torch.float64))
    found = thin_svd(TaskMatrix(with_spectrum(*shape, values)), limit)
    expected = values[values > tolerance(shape)][:limit]
    assert abs(len(found.S) - len(expected)) <= 1  # one may lie at the tolerance itself
    assert torch.allclose(found.S.double(), values[: len(found.S)], rtol=0, atol=1e-5)
    assert is_orthonormal(found.U) and is_orthonormal(found.V, 1e-3)
    if limit is None:
        assert is_orthonormal(found.V)


def test_the_rank_is_the_numerical_one():
    low = TaskMatrix(normal(40, 3) @ normal(3, 25, seed=1))
    assert len(thin_svd(low).S) == 3 and len(thin_svd(low, 8).S) == 3 and len(thin_svd(low, 2).S) == 2
    assert len(complete_svd(low).S) == 25
    assert len(thin_svd(TaskMatrix(torch.zeros(4, 5))).S) == 0
    tiny = thin_svd(TaskMatrix(low.left * 1e-30), 2)  # squares underflow in float32
    assert torch.allclose(tiny.S * 1e30, thin_svd(low, 2).S, rtol=1e-4)
    huge = thin_svd(TaskMatrix(low.left * 1e25), 2)  # and overflow
    assert torch.allclose(huge.S / 1e25, thin_svd(low, 2).S, rtol=1e-4)


def test_a_remainder_is_measured_by_what_it_was_taken_from():
    matrix = TaskMatrix(with_spectrum(20, 30, [5.0, 3.0, 2.0]))
    outside = matrix.without(thin_svd(matrix).U)
    assert len(thin_svd(outside, scale=matrix.norm()).S) == 0
    some = thin_svd(matrix.without(thin_svd(matrix, 1).U), scale=matrix.norm())
    assert torch.allclose(some.S, torch.tensor([3.0, 2.0]), atol=1e-5)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 15), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_a_product_is_decomposed_like_the_dense_matrix(rows, columns, rank, seed):
    product = TaskMatrix(normal(rows, rank, seed=seed), normal(rank, columns, seed=seed + 100))
    dense = TaskMatrix(product.dense())
    assert product.shape == dense.shape == (rows, columns)
    assert product.norm() == pytest.approx(dense.norm(), rel=1e-5)
    ours, theirs = thin_svd(product), thin_svd(dense)
    size = product.norm()
    assert torch.allclose(ours.product(), dense.left, atol=1e-4 * size)
    shared = min(len(ours.S), len(theirs.S))
    assert torch.allclose(ours.S[:shared], theirs.S[:shared], atol=1e-5 * size)
    weights = torch.arange(1.0, rows + 1).unsqueeze(1)
    assert torch.allclose(product.scaled(weights).dense(), dense.left * weights, atol=1e-4 * rows * size)


def test_sums_stay_products_of_low_rank_where_all_are():
    products = [TaskMatrix(normal(9, 2, seed=s), normal(2, 7, seed=s + 9)) for s in range(3)]
    dense = sum(product.dense() for product in products)
    summed = total(products)
    assert summed.right is not None and summed.left.shape == (9, 6)
    assert torch.allclose(summed.dense(), dense, atol=1e-5)
    mixed = [products[0], TaskMatrix(products[1].dense()), products[2]]
    before = mixed[1].left.clone()
    assert torch.allclose(total(mixed).dense(), dense, atol=1e-5) and torch.equal(mixed[1].left, before)


@pytest.mark.parametrize("smallest", [1.0, 0.5, 1e-1, 1e-2, 1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("rows", [12, 40])
def test_the_polar_factor_is_the_one_of_the_full_decomposition(rows, smallest):
    X = with_spectrum(rows, 12, torch.linspace(1.2, smallest, 12))
    found = overlap(X)
    assert found.condition == pytest.approx(smallest, rel=0.01, abs=2e-7)
    P, _, Qh = torch.linalg.svd(X.double(), full_matrices=False)
    factor = polar_factor(X, found)
    assert is_orthonormal(factor)
    assert torch.allclose(factor, (P @ Qh).float(), atol=1e-5 + 1e-6 / smallest)


def test_orthonormal_columns_are_their_own_polar_factor():
    X = orthonormal(30, 10).float()
    found = overlap(X)
    assert found.condition == pytest.approx(1, abs=1e-5) and found.ill_posed(torch.ones(10)) == 0
    assert torch.allclose(polar_factor(X, found), X, atol=1e-6)


def test_the_ill_posed_share_is_weighted_by_energy():
    basis = torch.eye(8)
    X = torch.stack([basis[0], basis[1], basis[1] + 1e-6 * basis[2]], dim=1)
    found = overlap(X)  # the difference of the last two columns is lost: half of the energy of each
    assert found.condition == pytest.approx(1e-6 / 2**0.5, rel=0.1)
    assert found.ill_posed(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(1 / 6, rel=1e-3)
    assert found.ill_posed(torch.tensor([0.0, 1.0, 1.0])) == pytest.approx(1 / 2, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad):
    matrix = normal(5, 6)
    matrix[2, 3] = bad
    for broken in (TaskMatrix(matrix), TaskMatrix(matrix, normal(6, 4))):
        with pytest.raises(MergeError, match="infinity or a NaN"):
            thin_svd(broken, 2)
        with pytest.raises(MergeError, match="infinity or a NaN"):
            complete_svd(broken)
