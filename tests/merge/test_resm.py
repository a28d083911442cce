import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import MergeError
from trivet.merge import tsvm
from trivet.merge._group import MemoryGroup, ModelScope
from trivet.merge.resm import Config, apportioned, density, merge, outlier_masses, row_weights, winsorized

WEIGHTS = {"sigma": 3.0, "eps": 1e-8, "low": 0.25, "high": 4.0}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def group_of(deltas, **options):
    base = torch.zeros(deltas[0].shape)
    return MemoryGroup(list(deltas), base, **options)


def merged(group, **settings_):
    return group.merged(merge(Config(**settings_), group))


def planted(rows, columns, seed=0):
    """A matrix with a few heavy columns."""
    delta = normal(rows, columns, seed=seed)
    delta[:, ::17] *= 12
    return delta


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_off_and_uniform_is_tsvm_bit_for_bit(rows, columns, count, seed):
    deltas = [normal(rows, columns, seed=10 * seed + t) for t in range(count)]
    ours, theirs = group_of(deltas), group_of(deltas)
    expected = theirs.merged(tsvm.merge(tsvm.Config(alpha=0.7), theirs))
    assert torch.equal(merged(ours, outliers="off", allocation="uniform", alpha=0.7), expected)
    assert ours.notes == theirs.notes


def test_off_and_uniform_is_tsvm_for_adapters_too():
    factors = [(normal(20, 3, seed=t), normal(3, 26, seed=t + 9)) for t in range(3)]
    deltas = [B @ A for B, A in factors]
    ours, theirs = group_of(deltas, factors=factors), group_of(deltas, factors=factors)
    alpha = (1.0, 2.0, 0.5)
    expected = theirs.merged(tsvm.merge(tsvm.Config(alpha=alpha), theirs))
    assert torch.equal(merged(ours, outliers="off", allocation="uniform", alpha=alpha), expected)


def test_the_outlier_mass_by_hand():
    delta = torch.tensor([[1.0, -1.0, 1.0, -9.0], [2.0, 2.0, -2.0, 2.0]])
    # Magnitudes 1, 1, 1, 9: mean 3, standard deviation √12 = 3.46; with σ = 1 the outlier is 9 > 6.46.
    assert outlier_masses(delta, 1.0).tolist() == [9.0, 0.0]
    assert outlier_masses(delta, 2.0).tolist() == [0.0, 0.0]
    clipped = winsorized(delta, 1.0)
    assert clipped[0].tolist() == pytest.approx([1, -1, 1, -(3 + 12**0.5)])
    assert torch.equal(clipped[1], delta[1])


def test_equal_outlier_mass_weighs_one_and_weights_sum_to_the_number_of_experts():
    delta = planted(6, 200)
    for weight in row_weights([delta, -delta, delta.flip(1)], **WEIGHTS):
        assert torch.allclose(weight, torch.ones(6, 1), rtol=1e-6)
    for weight in row_weights([delta, -delta], **WEIGHTS):
        assert torch.equal(weight, torch.ones(6, 1))
    quiet = row_weights([torch.ones(4, 5), -torch.ones(4, 5)], **WEIGHTS)  # no outlier anywhere
    assert all(torch.equal(weight, torch.ones(4, 1)) for weight in quiet)
    unclipped = row_weights([planted(6, 200, t) for t in range(4)], sigma=1.0, eps=1e-8, low=0.0, high=1000.0)
    assert torch.allclose(sum(unclipped), torch.full((6, 1), 4.0), rtol=1e-5)


def test_the_expert_with_heavy_tails_gets_the_larger_weight():
    heavy, light = row_weights([planted(30, 170), normal(30, 170, seed=1)], **WEIGHTS)
    assert heavy.mean() > 1.5 > 0.5 > light.mean()
    assert light.min() >= 0.25 and heavy.max() <= 4
    bounded = row_weights([planted(30, 170), normal(30, 170, seed=1)], sigma=3.0, eps=1e-8, low=0.9, high=1.1)
    assert torch.allclose(bounded[0], torch.tensor(1.1)) and torch.allclose(bounded[1], torch.tensor(0.9))


def test_each_mode_is_tsvm_on_its_task_vectors():
    deltas = [planted(24, 170), normal(24, 170, seed=1), planted(24, 170, seed=2)]
    weights = row_weights(deltas, **WEIGHTS)
    for outliers, changed in (
        ("emphasise", [weight * delta for weight, delta in zip(weights, deltas, strict=True)]),
        ("suppress", [winsorized(delta, 3.0) for delta in deltas]),
    ):
        theirs = group_of(changed)
        expected = theirs.merged(tsvm.merge(tsvm.Config(), theirs))
        result = merged(group_of(deltas), outliers=outliers, allocation="uniform")
        assert torch.allclose(result, expected, atol=1e-5 * float(expected.abs().max()))


def test_density_by_hand():
    assert density(torch.tensor([[1.0, 0.0], [0.0, -1.0]]), 0.1) == 0.5
    assert density(torch.ones(3, 4), 0.1) == 1 and density(torch.zeros(3, 4), 0.1) == 0
    assert density(normal(300, 300), 0.1) == pytest.approx(0.92, abs=0.005)


def test_ranks_follow_the_density_of_the_layer():
    def signs(seed):
        return normal(60, 80, seed=seed).sign()

    def sparse(seed):
        return signs(seed) * ((torch.arange(60).unsqueeze(1) + torch.arange(80)) % 2)

    # The first expert is half as dense in the second layer, the second one in the first; the third nowhere.
    layers = [
        group_of([signs(0), sparse(1), signs(2)], name="0.weight"),
        group_of([sparse(3), signs(4), signs(5)], name="1.weight"),
        group_of([torch.zeros(60, 80)] * 3, name="frozen.weight"),
        group_of([torch.ones(80)] * 3, name="norm.weight"),
        group_of([torch.ones(60, 80)] * 3, name="lm_head.weight"),
    ]
    passes = []
    scope = ModelScope(lambda: iter([passes.append(1), *layers][1:]))
    for layer in layers:
        layer.scope = scope
        merged(layer, outliers="off")
    assert len(passes) == 1, "the model is read once"
    assert layers[0].notes["layer_density"] == [1, 0.5, 1]
    # Densities 1 and ½ have the mean ¾: 20 · 4/3 = 27 and 20 · 2/3 = 13 directions.
    assert layers[0].notes["ranks"] == [27, 13, 20]
    assert layers[1].notes["ranks"] == [13, 27, 20]
    assert layers[2].notes["ranks"] == [0, 0, 0]


def test_a_model_of_one_layer_shares_alike():
    deltas = [normal(60, 80), normal(60, 80, seed=1) * (normal(60, 80, seed=2) > 0)]
    group = group_of(deltas)
    merged(group)
    assert group.notes["ranks"] == [30, 30]


def test_ranks_shrink_in_proportion_by_largest_remainders():
    assert apportioned([3, 4], 10) == [3, 4]
    assert apportioned([20, 10, 10], 20) == [10, 5, 5]
    assert apportioned([5, 5, 5], 10) == [4, 3, 3]
    assert apportioned([1, 10, 10], 3) == [0, 2, 1]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 60))
def test_apportioned_ranks_never_exceed_what_is_there(ranks, total):
    shrunk = apportioned(ranks, total)
    assert sum(shrunk) == min(sum(ranks), total)
    assert all(0 <= after <= before for after, before in zip(shrunk, ranks, strict=True))


@pytest.mark.parametrize("outliers", ["emphasise", "suppress", "off"])
def test_adapters_give_what_their_dense_product_gives(outliers):
    factors = [(normal(30, 4, seed=t), normal(4, 40, seed=t + 9)) for t in range(3)]
    deltas = [B @ A for B, A in factors]
    adapters, dense = group_of(deltas, factors=factors), group_of(deltas)
    assert torch.allclose(merged(adapters, outliers=outliers), merged(dense, outliers=outliers), atol=2e-3)
    assert adapters.notes["ranks"] == dense.notes["ranks"]
    if outliers != "suppress":  # clipping entries raises the rank
        assert adapters.notes["ranks"] == [4, 4, 4]


@given(st.integers(1, 10), st.integers(1, 10), st.integers(1, 4), st.sampled_from(["emphasise", "suppress"]))
@settings(deadline=None, max_examples=40)
def test_every_shape_gives_a_finite_merge(rows, columns, count, outliers):
    group = group_of([normal(rows, columns, seed=t) for t in range(count)], block_elements=7)
    result = merged(group, outliers=outliers)
    assert result.shape == (rows, columns) and result.isfinite().all()
    assert sum(group.notes.get("ranks", [])) <= min(rows, columns)


def test_experts_that_changed_nothing_and_other_tensors():
    zero = torch.zeros(9, 12)
    assert torch.equal(merged(group_of([zero, zero])), zero)
    group = group_of([zero, normal(9, 12)])
    merged(group)
    assert group.notes["ranks"][0] == 0
    vectors = [normal(12, seed=t) for t in range(3)]
    assert torch.allclose(merged(group_of(vectors)), sum(vectors) / 3, atol=1e-6)
    with pytest.raises(MergeError, match="base_model"):
        merge(Config(), MemoryGroup([zero, zero]))
