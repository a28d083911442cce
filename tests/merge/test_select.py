"""Order statistics by counting are those of sorting."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
