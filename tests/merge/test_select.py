"""Order statistics, by counting or between two sampled magnitudes, are those of sorting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.merge import _select
from trivet.merge._group import MemoryGroup
from trivet.merge._select import largest

values = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(values, min_size=1, max_size=70), st.data(), st.integers(1, 9))
def test_a_rank_is_that_of_the_sorted_magnitudes(numbers, data, block):
    delta = torch.tensor(numbers, dtype=torch.float32).view(-1, 1)
    rank = data.draw(st.integers(1, len(numbers)))
    group = MemoryGroup([delta], torch.zeros_like(delta), block_elements=block)
    ((found,),) = largest(lambda: iter([group]), [[rank]])
    ordered = delta.flatten().abs().sort(descending=True).values
    assert found.value == float(ordered[rank - 1])
    assert found.larger == int((ordered > found.value).sum())
    assert found.equal == int((ordered == found.value).sum())


def test_several_ranks_experts_and_tensors_at_once():
    generator = torch.Generator().manual_seed(3)
    parts = [[torch.randn(6, 5, generator=generator) for _ in range(2)] for _ in range(3)]
    groups = [MemoryGroup(experts, torch.zeros(6, 5)) for experts in parts]
    found = largest(lambda: iter(groups), [[1, 40, 90], [7]])
    for expert, ranks in ((0, [1, 40, 90]), (1, [7])):
        joined = (
            torch.cat([experts[expert].flatten() for experts in parts]).abs().sort(descending=True).values
        )
        assert [threshold.value for threshold in found[expert]] == [float(joined[rank - 1]) for rank in ranks]


def large(kind: str) -> torch.Tensor:
    """400,000 elements, more than a sample is taken of."""
    generator = torch.Generator().manual_seed(4)
    normal = torch.randn(1000, 400, generator=generator)
    return {
        "normal": normal,
        "steps of bfloat16": (normal * 0.01).bfloat16().float(),
        "few values": normal.round(),
        "constant": torch.full_like(normal, -0.25),
        "zeros": torch.zeros_like(normal),
        "rows apart": normal * torch.linspace(-6, 6, 1000).exp()[:, None],
        "one row": torch.zeros_like(normal).index_fill_(0, torch.tensor([501]), 1.0) * normal,
    }[kind]


KINDS = ("normal", "steps of bfloat16", "few values", "constant", "zeros", "rows apart", "one row")


@pytest.mark.parametrize("kind", KINDS)
def test_large_tensors_are_sampled_and_exact(kind):
    delta = large(kind)
    ranks = [1, 3, 399, 4_000, 80_000, 200_000, 399_999, 400_000]
    group = MemoryGroup([delta, -2 * delta], torch.zeros_like(delta))
    found = largest(lambda: iter([group]), [ranks, [200_000]])
    ordered = delta.flatten().abs().sort(descending=True).values
    for rank, threshold in zip(ranks, found[0], strict=True):
        assert threshold.value == float(ordered[rank - 1])
        assert threshold.larger == int((ordered > threshold.value).sum())
        assert threshold.equal == int((ordered == threshold.value).sum())
    assert found[1][0].value == 2 * float(ordered[199_999])


def test_both_ways_are_taken():
    def found(delta: torch.Tensor) -> object:
        group = MemoryGroup([delta], torch.zeros_like(delta))
        return _select._between(lambda: iter([group]), [[200_000]])

    assert found(large("normal")) is not None and found(large("steps of bfloat16")) is not None
    assert found(large("constant")) is None, "all of it would be gathered"


def test_a_sample_that_misleads_is_noticed():
    """The rows that are looked at are a thousand times larger than all others."""
    delta = torch.randn(100_000, 4, generator=torch.Generator().manual_seed(5))
    for number in range(_select._STRETCHES):
        delta[number * 100_000 // _select._STRETCHES :][:1000] *= 1000
    group = MemoryGroup([delta], torch.zeros_like(delta), block_elements=4 * 1000 * _select._STRETCHES)
    assert _select._between(lambda: iter([group]), [[300_000]]) is None
    ((threshold,),) = largest(lambda: iter([group]), [[300_000]])
    assert threshold.value == float(delta.flatten().abs().sort(descending=True).values[299_999])
