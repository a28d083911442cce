import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import MergeError
from trivet.merge import iso_c
from trivet.merge._group import MemoryGroup
from trivet.merge.iso_cts import Config, merge, sizes


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


def textbook(deltas, common, own):
    """Iso-CTS by its equations with full decompositions in float64."""
    deltas = [delta.double() for delta in deltas]
    U, S, Vh = torch.linalg.svd(sum(deltas), full_matrices=False)
    shared = U[:, :common]
    lefts, values, rights = [shared], [S[:common]], [Vh[:common].T]
    for delta in deltas:
        U, S, Wh = torch.linalg.svd(delta - shared @ shared.T @ delta, full_matrices=False)
        lefts, values, rights = [*lefts, U[:, :own]], [*values, S[:own]], [*rights, Wh[:own].T]
    polar = []
    for parts in (lefts, rights):
        P, _, Qh = torch.linalg.svd(torch.cat(parts, dim=1), full_matrices=False)
        polar.append(P @ Qh)
    return (torch.cat(values).mean() * polar[0] @ polar[1].T).float()


@pytest.mark.parametrize(
    ("directions", "count", "fraction", "expected"),
    [
        (768, 8, 0.8, (616, 19)),  # 768 − 614 = 154; 154 / 8 = 19.25
        (10, 3, 0.8, (7, 1)),  # 10 − 8 = 2; 2 / 3 rounds to 1
        (10, 3, 1.0, (10, 0)),
        (9, 3, 0.0, (0, 3)),
        (2, 3, 0.0, (2, 0)),  # one direction each does not fit
        (1, 1, 0.8, (0, 1)),
    ],
)
def test_sizes_of_the_subspaces(directions, count, fraction, expected):
    assert sizes(directions, count, fraction) == expected


@pytest.mark.parametrize(("rows", "columns"), [(24, 40), (40, 24), (30, 30)])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.8])
def test_it_equals_the_textbook(rows, columns, fraction):
    deltas = experts(rows, columns)
    result = merged(group_of(deltas), common_space_fraction=fraction, fallback=False)
    expected = textbook(deltas, *sizes(min(rows, columns), 3, fraction))
    assert float((result - expected).norm() / expected.norm()) < 1e-3


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.floats(0, 1), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_every_shape_has_one_singular_value_or_takes_the_mean(rows, columns, count, fraction, seed):
    deltas = experts(rows, columns, count, seed)
    group = group_of(deltas, block_elements=13)
    result = merged(group, common_space_fraction=fraction)
    if "warnings" in group.notes:
        assert torch.allclose(result, sum(deltas) / count, atol=1e-5)
        return
    kept = sum(group.notes["ranks"])
    found = torch.linalg.svdvals(result)
    assert kept <= min(rows, columns)
    assert torch.allclose(found[:kept], found[:1].expand(kept), rtol=1e-4)
    assert torch.all(found[kept:] < 1e-4 * found[0])


def test_all_directions_in_common_is_iso_c():
    deltas = experts(14, 19)
    theirs = group_of(deltas)
    expected = theirs.merged(iso_c.merge(iso_c.Config(), theirs))
    assert torch.allclose(merged(group_of(deltas), common_space_fraction=1.0), expected, atol=1e-4)


def test_orthogonal_experts_keep_all_their_directions_at_the_mean_strength():
    U, V = orthogonal(12, 1), orthogonal(16, 2)
    parts = [(U[:, 2 * t : 2 * t + 2], V[:, 2 * t : 2 * t + 2]) for t in range(3)]
    deltas = [P @ torch.diag(torch.tensor([3.0 + t, 1.0 + t])) @ W.T for t, (P, W) in enumerate(parts)]
    group = group_of(deltas)
    # Singular values 3, 1, 4, 2, 5, 3: mean 3. Nothing of an expert is left outside the common subspace.
    expected = 3 * sum(P @ W.T for P, W in parts)
    assert torch.allclose(merged(group), expected, atol=1e-4)
    assert group.notes["ranks"] == [0, 0, 0, 6]


def test_adapters_give_what_their_dense_product_gives():
    factors = [(normal(20, 3, seed=t), normal(3, 30, seed=t + 9)) for t in range(3)]
    deltas = [B @ A for B, A in factors]
    dense, adapters = group_of(deltas), group_of(deltas, factors=factors)
    adapters.whole = lambda: pytest.fail("a dense matrix was asked for")
    ours = merged(adapters, common_space_fraction=0.2)
    assert torch.allclose(ours, merged(dense, common_space_fraction=0.2), atol=1e-3)
    # int(20 · 0.2) = 4 leaves 16, of which 15 divide by three experts; each has rank 3 only.
    assert adapters.notes["ranks"] == dense.notes["ranks"] == [3, 3, 3, 5]
    official = group_of(deltas)
    merged(official, common_space_fraction=0.2, rank="official", fallback=False)
    assert official.notes["ranks"] == [5, 5, 5, 5]


def test_order_rotations_and_scale():
    deltas, Q, P, base = experts(15, 22), orthogonal(15, 7), orthogonal(22, 8), normal(15, 22, seed=9)
    plain = merged(group_of(deltas))
    assert torch.allclose(merged(group_of(deltas[::-1])), plain, atol=1e-4)
    assert torch.allclose(merged(group_of([Q @ delta @ P for delta in deltas])), Q @ plain @ P, atol=1e-3)
    assert torch.allclose(merged(group_of(deltas, base), alpha=1.3), base + 1.3 * plain, atol=1e-3)


def test_experts_of_the_same_own_directions_take_the_mean():
    first = normal(20, 30)
    deltas = [first, first + 1e-6 * normal(20, 30, seed=1)]
    group = group_of(deltas)
    assert torch.allclose(merged(group, common_space_fraction=0.2), first, atol=1e-5)
    assert "nearly coincide" in group.notes["warnings"][0]


def test_what_it_leaves_alone_and_refuses():
    base = normal(8, 9)
    assert torch.equal(merged(MemoryGroup([base, base], base)), base)
    for name, shape in (("norm.weight", (9,)), ("lm_head.weight", (8, 9)), ("conv.weight", (2, 3, 4))):
        deltas = [normal(*shape, seed=t) for t in range(3)]
        assert torch.allclose(merged(group_of(deltas, name=name)), sum(deltas) / 3, atol=1e-6)
    with pytest.raises(MergeError, match="base_model"):
        merge(Config(), MemoryGroup([base]))
