"""Linear, rewarded soup and passthrough by hand."""

import pytest
import torch

from trivet.errors import ConfigError, MergeError
from trivet.merge import merge_tensors

A, B = torch.tensor([2.0, 4.0]), torch.tensor([6.0, 0.0])


def test_weights_are_normalised_unless_told_otherwise():
    assert merge_tensors("linear", [A, B]).tolist() == [4.0, 2.0]
    assert merge_tensors("weight_average", [A, B], weight=[3.0, 1.0]).tolist() == [3.0, 3.0]
    assert merge_tensors("linear", [A, B], weight=[3.0, 1.0], normalize=False).tolist() == [12.0, 12.0]
    with pytest.raises(MergeError, match="sum to 0"):
        merge_tensors("linear", [A, B], weight=[1.0, -1.0])


def test_a_soup_is_a_point_of_the_simplex():
    assert torch.equal(merge_tensors("rewarded_soup", [A, B], weight=[0.0, 1.0]), B)
    assert torch.equal(merge_tensors("rewarded_soup", [A, B]), merge_tensors("linear", [A, B]))
    with pytest.raises(MergeError, match=r"sum to 0\.7, not to 1"):
        merge_tensors("rewarded_soup", [A, B], weight=[0.5, 0.2])
    with pytest.raises(ConfigError):
        merge_tensors("rewarded_soup", [A, B], weight=[1.5, -0.5])


def test_passthrough_has_one_source():
    assert merge_tensors("passthrough", [A]).tolist() == [2.0, 4.0]
    assert merge_tensors("passthrough", [A], scale=0.5).tolist() == [1.0, 2.0]
    with pytest.raises(MergeError, match="one source, not 2"):
        merge_tensors("passthrough", [A, B])
