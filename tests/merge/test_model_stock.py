"""Model Stock in the cases that can be worked out by hand (check 9)."""

import pytest
import torch

from trivet.errors import MergeError
from trivet.merge import merge_tensors


def test_equal_experts_give_themselves():
    base, expert = torch.zeros(2, 3), torch.arange(6.0).view(2, 3)
    torch.testing.assert_close(merge_tensors("model_stock", [expert] * 3, base), expert)


def test_orthogonal_task_vectors_give_the_base():
    base = torch.ones(1, 3)
    experts = [base + row for row in torch.eye(3)[:, None]]
    torch.testing.assert_close(merge_tensors("model_stock", experts, base), base)


def test_a_half_cosine():
    """T = 2, c = ½: τ = 2·½ / (1 + ½) = ⅔ of the way to the average."""
    base = torch.zeros(1, 2)
    experts = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 3**0.5 / 2]])]
    torch.testing.assert_close(
        merge_tensors("model_stock", experts, base), (2 / 3) * (experts[0] + experts[1]) / 2
    )


@pytest.mark.parametrize("count", [2, 3, 4])
def test_where_the_ratio_has_no_value_the_base_is_kept(count):
    """Task vectors that sum to 0 at equal angles have c = −1/(T−1)."""
    angles = torch.arange(count) * 2 * torch.pi / count
    if count == 4:  # a tetrahedron; four equal angles in a plane do not have one cosine
        deltas = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    else:
        deltas = torch.stack([angles.cos(), angles.sin()], 1)
    base = torch.full((1, deltas.shape[1]), 5.0)
    torch.testing.assert_close(merge_tensors("model_stock", [base + row for row in deltas], base), base)


def test_rows_on_their_own():
    base = torch.zeros(2, 2)
    experts = [torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[1.0, 0], [0, 1]])]
    merged = merge_tensors("model_stock", experts, base, filter_wise=True)
    torch.testing.assert_close(merged, torch.tensor([[1.0, 0], [0, 0]]))


def test_one_expert_is_refused():
    with pytest.raises(MergeError, match="at least two"):
        merge_tensors("model_stock", [torch.ones(2)], torch.ones(2))
