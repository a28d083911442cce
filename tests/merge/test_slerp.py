"""Interpolation along the arc, in closed form."""

import math

import pytest
import torch

from trivet.errors import MergeError
from trivet.merge import merge_tensors
from trivet.merge.slerp import coefficients


def test_a_right_angle():
    base, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    merged = merge_tensors("slerp", [other], base, t=0.5)
    torch.testing.assert_close(merged, torch.full((1, 2), math.sqrt(0.5)))
    third = merge_tensors("slerp", [other], base, t=1 / 3)
    torch.testing.assert_close(third, torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]]))


def test_the_ends_are_the_models_bit_by_bit():
    generator = torch.Generator().manual_seed(0)
    base, other = torch.randn(2, 5, 4, generator=generator)
    assert torch.equal(merge_tensors("slerp", [other], base, t=0), base)
    assert torch.equal(merge_tensors("slerp", [other], base, t=1), other)


def test_parallel_and_opposite_tensors_take_the_line():
    base = torch.tensor([[3.0, 4.0]])
    for other in (2 * base, -base):
        merged = merge_tensors("slerp", [other], base, t=0.25)
        torch.testing.assert_close(merged, 0.75 * base + 0.25 * other)
    merged = merge_tensors("slerp", [torch.zeros_like(base)], base, t=0.5)
    torch.testing.assert_close(merged, base * math.sqrt(0.5))  # zeros have no direction: a right angle
    assert coefficients(0.3, 0.99999) == (0.7, 0.3)


def test_exactly_one_other_model():
    with pytest.raises(MergeError, match="one other model, not 2"):
        merge_tensors("slerp", [torch.ones(2), torch.ones(2)], torch.ones(2), t=0.5)
