"""Which entries of a task vector stay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.merge._group import MemoryGroup
from trivet.merge._outliers import masked_counts
from trivet.merge._trim import band, kept_count, model_trimmers, tensor_trimmers


def group_of(delta: torch.Tensor, block: int = 8) -> MemoryGroup:
    return MemoryGroup([delta], torch.zeros_like(delta), block_elements=block)


def trimmed(group: MemoryGroup, trimmer) -> torch.Tensor:
    return torch.cat([trimmer.trim(block.deltas[0]) for block in group.blocks()]).reshape(group.shape)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([0.25, -0.25, 0.5, -1.0, 2.0, 3.0]), min_size=1, max_size=40),
    st.floats(0, 1),
    st.integers(1, 9),
)
def test_exactly_the_share_stays_and_ties_go_by_index(numbers, density, block):
    delta = torch.tensor(numbers).view(-1, 1)
    group = group_of(delta, block)
    kept = kept_count(density, len(numbers))
    result = trimmed(group, tensor_trimmers(group, [density])[0]).flatten()
    order = sorted(range(len(numbers)), key=lambda place: (-abs(numbers[place]), place))
    expected = torch.zeros(len(numbers))
    expected[order[:kept]] = delta.flatten()[order[:kept]]
    assert torch.equal(result, expected)


def test_what_stays_is_counted_as_the_card_says():
    assert kept_count(0.2, 100) == 20
    assert kept_count(0.001, 100) == 1  # at least one
    assert kept_count(0.0, 100) == 0
    assert kept_count(1.0, 7) == 7


def test_breadcrumbs_keep_exactly_the_ranks_of_the_card():
    """|D| = 1 … 100, density 0.5, gamma 0.05: ranks 46 … 95 stay."""
    delta = torch.arange(1.0, 101.0).view(10, 10)
    delta = delta * torch.where(torch.arange(100).view(10, 10) % 2 == 0, 1.0, -1.0)
    group = group_of(delta)
    (one,) = band(group, [masked_counts(100, 0.5, 0.05)])
    kept = trimmed(group, one).abs()
    assert sorted(kept[kept > 0].tolist()) == list(range(46, 96))


@pytest.mark.parametrize("elements", range(1, 130, 7))
def test_breadcrumbs_leave_small_tensors_their_share(elements):
    """Releases of mergekit before 0.1.5 emptied every tensor under a hundred entries."""
    delta = torch.arange(1.0, elements + 1.0).view(-1, 1)
    dropped, kept = masked_counts(elements, 0.5, 0.01)
    group = group_of(delta)
    (one,) = band(group, [(dropped, kept)])
    result = trimmed(group, one)
    assert int((result != 0).sum()) == kept == int(0.5 * elements)
    assert dropped == int(0.01 * elements)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.5, -0.5, 1.0, 2.0]), min_size=2, max_size=30), st.data())
def test_a_band_leaves_out_the_largest_first_by_index(numbers, data):
    dropped = data.draw(st.integers(0, len(numbers)))
    kept = data.draw(st.integers(0, len(numbers) - dropped))
    delta = torch.tensor(numbers).view(-1, 1)
    group = group_of(delta, 3)
    (one,) = band(group, [(dropped, kept)])
    order = sorted(range(len(numbers)), key=lambda place: (-abs(numbers[place]), place))
    expected = torch.zeros(len(numbers))
    chosen = order[dropped : dropped + kept]
    expected[chosen] = delta.flatten()[chosen]
    assert torch.equal(trimmed(group, one).flatten(), expected)


@pytest.mark.parametrize(("density", "kept"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_threshold_of_the_whole_model(density, kept):
    delta = torch.tensor([[4.0, -3.0], [2.0, 1.0]])
    group = group_of(delta)
    (one,) = model_trimmers(group, [density])
    assert int((trimmed(group, one) != 0).sum()) == kept
