"""Random dropping keeps what it says it keeps, and the same for every way to cut a tensor."""

import math

import numpy as np
import pytest
import torch

from trivet.merge import merge_tensors
from trivet.merge._drop import places_by_magnitude
from trivet.merge._random import bounds, draws


def delta_of(method: str, delta: torch.Tensor, **settings) -> torch.Tensor:
    return merge_tensors(method, [delta], torch.zeros_like(delta), weight=1, **settings)


def test_draws_depend_on_the_place_alone():
    whole = draws(5, "tensor", 1, 0, 1001)
    assert whole.shape == (1001,) and whole.dtype == np.uint32
    parts = [draws(5, "tensor", 1, 0, 7), draws(5, "tensor", 1, 7, 994)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(draws(5, "tensor", 1, 500, 501), whole[500:])
    for seed, name, expert in ((6, "tensor", 1), (5, "other", 1), (5, "tensor", 0)):
        assert not np.array_equal(draws(seed, name, expert, 0, 1001), whole)


def test_draws_are_uniform():
    found = draws(1, "tensor", 0, 0, 2**20)
    counts = np.bincount(found >> 24, minlength=256)
    statistic = float(((counts - 4096) ** 2 / 4096).sum())
    assert 255 - 5 * math.sqrt(510) < statistic < 255 + 5 * math.sqrt(510)  # chi-square, 255 degrees
    for probability in (0.001, 0.3, 0.999):
        share = float((found < bounds(probability)).mean())
        assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / len(found))
    assert bounds(0.0) == 0 and bounds(0.5) == 2**31


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della_linear", "della"])
@pytest.mark.parametrize("rescale", ["l1", "inverse_keep_prob", "none"])
def test_the_result_does_not_depend_on_the_blocks(method, rescale):
    generator = torch.Generator().manual_seed(0)
    experts = [torch.randn(23, 11, generator=generator) for _ in range(3)]
    base = torch.randn(23, 11, generator=generator)
    options = {"weight": [1.0, 0.5, 2.0], "density": 0.5, "rescale": rescale, "seed": 3}
    whole = merge_tensors(method, experts, base, **options)
    assert torch.equal(merge_tensors(method, experts, base, block_elements=13, **options), whole)
    assert not torch.equal(merge_tensors(method, experts, base, **{**options, "seed": 4}), whole)


def test_dare_keeps_its_share_and_the_expectation():
    """Check 6: the mean over N masks has the relative error √(p / ((1−p) N))."""
    p, masks = 0.9, 2000
    delta = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    total, kept = torch.zeros_like(delta), 0
    for seed in range(masks):
        one = delta_of("dare_linear", delta, density=1 - p, rescale="inverse_keep_prob", seed=seed)
        total += one
        kept += int((one != 0).sum())
    error = float((total / masks - delta).norm() / delta.norm())
    assert error == pytest.approx(math.sqrt(p / ((1 - p) * masks)), rel=0.1)
    count = masks * delta.numel()
    assert abs(kept / count - (1 - p)) < 4 * math.sqrt(p * (1 - p) / count)


def test_dare_at_density_one_is_the_identity():
    delta = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    for rescale in ("l1", "inverse_keep_prob", "none"):
        assert torch.equal(delta_of("dare_linear", delta, density=1.0, rescale=rescale), delta)


def test_l1_restores_the_sum_of_magnitudes_and_not_the_expectation():
    delta = torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
    kept = delta_of("dare_linear", delta, density=0.5, rescale="l1", seed=1)
    assert float(kept.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
    factor = float((kept[kept != 0] / delta[kept != 0]).mean())
    assert factor != pytest.approx(2.0, rel=1e-3)  # the inverse of the keep probability
    assert torch.equal(
        delta_of("dare_linear", delta, density=0.5, rescale=True, seed=1), kept
    )  # mergekit's name for it


def test_della_keeps_large_entries_more_often():
    """Check 7: the smallest entry of a row stays with density − ε, the largest with density + ε."""
    density, epsilon, rows = 0.5, 0.2, 4000
    delta = torch.arange(1.0, 9.0).repeat(rows, 1)[
        :, torch.randperm(8, generator=torch.Generator().manual_seed(4))
    ]
    kept = delta_of("della_linear", delta, density=density, epsilon=epsilon, rescale="none") != 0
    spread = 4 * math.sqrt(0.25 / rows)
    for value, wanted in ((1.0, 0.3), (8.0, 0.7)):
        assert abs(float(kept[delta == value].float().mean()) - wanted) < spread
    assert abs(float(kept.float().mean()) - density) < 4 * math.sqrt(0.25 / (8 * rows))


def test_della_divides_each_entry_by_its_own_probability():
    delta = torch.arange(1.0, 5.0).repeat(200, 1)
    kept = delta_of("della_linear", delta, density=0.5, epsilon=0.3, rescale="inverse_keep_prob")
    for column, probability in enumerate((0.2, 0.4, 0.6, 0.8)):
        values = kept[:, column][kept[:, column] != 0]
        assert torch.allclose(values, torch.tensor((column + 1) / probability))


def test_rows_of_one_entry_and_vectors_are_pruned_too():
    column = torch.ones(2000, 1)
    kept = delta_of("della_linear", column, density=0.5, rescale="none") != 0
    assert abs(float(kept.float().mean()) - 0.5) < 0.05
    vector = torch.arange(1.0, 1001.0)  # one row
    kept = delta_of("della_linear", vector, density=0.5, epsilon=0.4, rescale="none") != 0
    assert kept[:200].sum() < kept[-200:].sum()


def test_an_epsilon_that_leaves_the_interval_is_refused():
    from trivet.errors import MergeError

    with pytest.raises(MergeError, match=r"density 0\.1 ± epsilon 0\.15"):
        delta_of("della", torch.ones(3, 3), density=0.1)


def test_columns_are_ordered_by_magnitude_then_place():
    values = torch.tensor([[3.0, -1.0, 1.0, 0.0], [-2.0, 2.0, 2.0, -2.0]])
    assert places_by_magnitude(values).tolist() == [3, 1, 2, 0, 4, 5, 6, 7]
