import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import ConfigError, MergeError
from trivet.merge._group import MemoryGroup
from trivet.merge.tsvm import Config, merge


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(size, seed=0):
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


def group_of(deltas, base=None, **options):
    base = torch.zeros(deltas[0].shape) if base is None else base
    return MemoryGroup([base + delta for delta in deltas], base, **options)


def merged(deltas, base=None, *, group=None, **settings_):
    group = group or group_of(deltas, base)
    return group.merged(merge(Config(**settings_), group))


def textbook(deltas, ranks=None):
    """TSVM by its five steps with full decompositions in float64."""
    share = min(deltas[0].shape) // len(deltas)
    parts = [torch.linalg.svd(delta.double(), full_matrices=False) for delta in deltas]
    ranks = ranks or [share] * len(deltas)
    U = torch.cat([U[:, :r] for (U, _, _), r in zip(parts, ranks, strict=True)], dim=1)
    S = torch.cat([S[:r] for (_, S, _), r in zip(parts, ranks, strict=True)])
    V = torch.cat([Vh[:r].T for (_, _, Vh), r in zip(parts, ranks, strict=True)], dim=1)
    polar = []
    for X in (U, V):
        P, _, Qh = torch.linalg.svd(X, full_matrices=False)
        polar.append(P @ Qh)
    return ((polar[0] * S) @ polar[1].T).float()


def experts(rows, columns, count=3, seed=0):
    return [normal(rows, columns, seed=10 * seed + t) for t in range(count)]


def relative(ours, expected):
    return float((ours - expected).norm() / expected.norm())


@pytest.mark.parametrize(("rows", "columns"), [(16, 40), (40, 16), (30, 30), (7, 50)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_it_equals_the_textbook(rows, columns, count):
    deltas = experts(rows, columns, count)
    assert relative(merged(deltas, fallback=False), textbook(deltas)) < 1e-4


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_every_shape_keeps_the_spectrum_or_takes_the_mean(rows, columns, count, seed):
    deltas = experts(rows, columns, count, seed)
    group = group_of(deltas)
    result = merged(deltas, group=group)
    share = min(rows, columns) // count
    if count == 1 or share == 0 or "warnings" in group.notes:
        assert torch.allclose(result, sum(deltas) / count, atol=1e-5)
        return
    kept = torch.cat([torch.linalg.svdvals(delta.double())[:share] for delta in deltas]).sort(
        descending=True
    )[0]
    found = torch.linalg.svdvals(result.double())
    assert torch.allclose(found[: len(kept)], kept, atol=1e-4 * float(kept[0]))
    assert torch.all(found[len(kept) :] < 1e-4 * kept[0])


def test_one_expert_is_returned():
    delta, base = normal(12, 20), normal(12, 20, seed=5)
    assert torch.allclose(merged([delta], base), base + delta, atol=1e-5)
    assert torch.allclose(merged([delta], base, alpha=0.5), base + 0.5 * delta, atol=1e-5)


def test_the_order_of_the_experts_does_not_matter():
    deltas = experts(18, 33)
    assert torch.allclose(merged(deltas), merged([deltas[2], deltas[0], deltas[1]]), atol=1e-5)


def test_rotations_commute_with_the_merge():
    deltas, Q, P = experts(20, 28), orthogonal(20, 7), orthogonal(28, 8)
    turned = merged([Q @ delta @ P for delta in deltas])
    assert torch.allclose(turned, Q @ merged(deltas) @ P, atol=1e-4)


def low_rank(rows, columns, rank, count=3, seed=0):
    return [
        (normal(rows, rank, seed=seed + t), normal(rank, columns, seed=seed + 50 + t)) for t in range(count)
    ]


def test_orthogonal_experts_add_up_only_with_the_numerical_rank():
    U, V = orthogonal(24, 1), orthogonal(36, 2)
    deltas = [U[:, 3 * t : 3 * t + 3] @ normal(3, 3, seed=t) @ V[:, 3 * t : 3 * t + 3].T for t in range(3)]
    group = group_of(deltas)
    assert relative(merged(deltas, group=group), sum(deltas)) < 2e-6
    assert group.notes["ranks"] == [3, 3, 3] and group.notes["condition"] == pytest.approx(1, abs=1e-4)
    group = group_of(deltas)
    assert relative(merged(deltas, group=group, rank="official", fallback=False), sum(deltas)) > 0.05
    assert group.notes["ranks"] == [8, 8, 8]


def test_adapters_give_what_their_dense_product_gives():
    factors = low_rank(30, 44, 4)
    dense = [B @ A for B, A in factors]
    base = normal(30, 44, seed=99)
    adapters = group_of(dense, base, factors=factors)
    ours = merged(dense, group=adapters)
    assert adapters.notes["ranks"] == [4, 4, 4]
    assert torch.allclose(ours, merged(dense, base), atol=1e-3)
    assert relative(ours - base, textbook(dense, [4, 4, 4])) < 1e-5
    mixed = group_of(dense, base, factors=[factors[0], None, factors[2]])
    assert torch.allclose(merged(dense, group=mixed), ours, atol=1e-3)


def test_adapters_are_never_multiplied_out():
    factors = low_rank(30, 44, 4)
    group = group_of([B @ A for B, A in factors], factors=factors)
    group.whole = lambda: pytest.fail("a dense matrix was asked for")
    merge(Config(), group)


def test_nearly_identical_experts_take_the_mean_with_a_warning():
    first = normal(20, 30)
    deltas = [first, first + 1e-6 * normal(20, 30, seed=1)]
    group = group_of(deltas)
    assert torch.allclose(merged(deltas, group=group), first, atol=1e-5)
    assert group.notes["condition"] < 1e-3 and group.notes["ill_posed"] > 0.4
    assert "nearly coincide" in group.notes["warnings"][0] and "mean" in group.notes["warnings"][0]
    group = group_of(deltas)
    result = merged(deltas, group=group, fallback=False)
    assert "depends on rounding" in group.notes["warnings"][0]
    kept = torch.cat([torch.linalg.svdvals(delta)[:10] for delta in deltas]).sort(descending=True)[0]
    assert torch.allclose(torch.linalg.svdvals(result), kept, atol=1e-3)


def test_one_small_singular_value_among_many_is_no_reason_for_the_mean():
    base = torch.eye(64)
    angle = 1e-4
    first, second = base.clone(), base.clone()
    first[:, 32:], second[:, :32] = 0, 0
    second[:, 32] = base[:, 32] * torch.sin(torch.tensor(angle)) + base[:, 0] * torch.cos(torch.tensor(angle))
    group = group_of([first, second])
    merged([first, second], group=group)
    assert group.notes["condition"] < 1e-3 and "warnings" not in group.notes
    strict = group_of([first, second])
    merged([first, second], group=strict, max_ill_posed=0.0)
    assert "warnings" in strict.notes


def test_alpha_scales_the_merge_or_each_expert():
    deltas, base = experts(15, 21), normal(15, 21, seed=77)
    plain = merged(deltas, base) - base
    assert torch.allclose(merged(deltas, base, alpha=0.3), base + 0.3 * plain, atol=1e-5)
    assert torch.equal(merged(deltas, base, alpha=0.0), base)
    scaled = merged([0.5 * deltas[0], -deltas[1], 2 * deltas[2]])
    assert torch.allclose(merged(deltas, alpha=(0.5, -1, 2)), scaled, atol=1e-4)
    with pytest.raises(ConfigError, match="alpha: 2 values for 3 experts"):
        merged(deltas, alpha=(1, 2))


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight", "transformer.wte.weight"])
def test_tables_of_tokens_take_the_mean(name):
    deltas = experts(12, 14)
    group = group_of(deltas, name=name)
    assert torch.allclose(merged(deltas, group=group), sum(deltas) / 3, atol=1e-6) and not group.notes
    group = group_of(deltas, name=name)
    assert relative(merged(deltas, group=group, exclude=()), textbook(deltas)) < 1e-4


@pytest.mark.parametrize("shape", [(30,), (3, 4, 5), (), (1, 40), (2, 40)])
def test_other_tensors_take_the_mean(shape):
    deltas = [normal(*shape, seed=t) for t in range(3)]
    base = normal(*shape, seed=9)
    assert torch.allclose(merged(deltas, base, alpha=2.0), base + 2 * sum(deltas) / 3, atol=1e-5)


def test_experts_that_changed_nothing_leave_the_base():
    base, delta = normal(9, 12), normal(9, 12, seed=1)
    assert torch.equal(merged([torch.zeros(9, 12)] * 3, base), base)
    group = group_of([delta, torch.zeros(9, 12), torch.zeros(9, 12)])
    merged([], group=group)
    assert group.notes["ranks"] == [3, 0, 0] and group.notes["condition"] == pytest.approx(1, abs=1e-5)


def test_blocks_are_slices_of_one_matrix():
    deltas, base = experts(17, 23), normal(17, 23, seed=4)
    expected = merged(deltas, base)
    assert torch.equal(merged(deltas, group=group_of(deltas, base, block_elements=50)), expected)


def test_the_inputs_are_not_changed():
    deltas, base = experts(10, 10), normal(10, 10, seed=4)
    group = group_of(deltas, base)
    before = [expert.clone() for expert in group.whole().experts]
    merged(deltas, group=group, alpha=(0.1, 0.2, 0.3))
    assert all(torch.equal(a, b) for a, b in zip(before, group.whole().experts, strict=True))


def test_what_it_refuses():
    deltas = experts(8, 8)
    group = MemoryGroup(deltas)
    with pytest.raises(MergeError, match="base_model"):
        merge(Config(), group)
    deltas[1][0, 0] = float("nan")
    with pytest.raises(MergeError, match=r"layer\.weight.*NaN"):
        merge(Config(), group_of(deltas, name="layer.weight"))
