"""TIES by hand, and the two scopes of its trimming."""

import pytest
import torch

from trivet.errors import ConfigError
from trivet.merge import merge_checkpoints, merge_tensors

BASE = torch.zeros(4)
EXPERTS = [
    torch.tensor([4.0, 1.0, -3.0, 0.5]),
    torch.tensor([-1.0, 2.0, -1.0, 6.0]),
    torch.tensor([2.0, -5.0, 0.1, 1.0]),
]


def test_the_three_steps():
    """Half is kept: [4, 0, −3, 0], [0, 2, 0, 6], [2, −5, 0, 0]; signs of the sums: + − − +."""
    merged = merge_tensors("ties", EXPERTS, BASE, weight=1, density=0.5)
    assert merged.tolist() == [3.0, -5.0, -3.0, 6.0]
    summed = merge_tensors("ties", EXPERTS, BASE, weight=1, density=0.5, normalize=False, lambda_=0.5)
    assert summed.tolist() == [3.0, -2.5, -1.5, 3.0]


def test_weights_decide_the_sign_and_the_mean():
    """The second column: w = (1, 3, 1) gives 1 + 6 − 5 > 0; the mean over the agreeing is (1·1 + 3·2)/4."""
    merged = merge_tensors("ties", EXPERTS, BASE, weight=[1.0, 3.0, 1.0])
    assert merged[1] == pytest.approx(7 / 4)


def test_a_sum_of_zero_counts_as_plus():
    merged = merge_tensors("ties", [torch.tensor([1.0]), torch.tensor([-1.0])], torch.zeros(1), weight=1)
    assert merged.tolist() == [1.0]


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0], [0.0, 1.0]])
def test_weights_that_cancel_divide_by_nothing(weights):
    merged = merge_tensors("ties", EXPERTS[:2], BASE, weight=weights)
    assert torch.isfinite(merged).all()


def test_the_share_of_the_whole_model(variants, tmp_path):
    """Trimmed over the model, tensors keep different shares, and all of them together the one asked for."""
    from safetensors.torch import load_file

    models = [{"model": str(variants / name), "parameters": {"weight": 1.0}} for name in ("one", "two")]
    recipe = {
        "merge_method": "ties",
        "base_model": str(variants / "base"),
        "models": models,
        "parameters": {"density": 0.3, "trim_scope": "model"},
    }
    merge_checkpoints(recipe, tmp_path / "out")
    base, one, two, merged = (
        load_file(folder / "model.safetensors")
        for folder in (variants / "base", variants / "one", variants / "two", tmp_path / "out")
    )
    thresholds = []
    for model in (one, two):
        deltas = torch.cat([(model[name] - base[name]).abs().flatten() for name in base])
        thresholds.append(deltas.sort(descending=True).values[int(0.3 * len(deltas)) - 1])
    for name in base:
        kept = [
            torch.where((model[name] - base[name]).abs() >= threshold, model[name] - base[name], 0.0)
            for model, threshold in zip((one, two), thresholds, strict=True)
        ]
        expected = merge_tensors("ties", kept, torch.zeros_like(kept[0]), weight=1) + base[name]
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6)


def test_rescaling_restores_the_sum_of_magnitudes():
    """Kept are 4 and −3 of [4, 1, −3, 0.5]; times 8.5 / 7 they have its sum of magnitudes."""
    merged = merge_tensors("ties", EXPERTS[:1], BASE, weight=1, density=0.5, rescale=True)
    torch.testing.assert_close(merged, torch.tensor([4.0, 0, -3.0, 0]) * 8.5 / 7)
    with pytest.raises(ConfigError, match="rescale"):
        merge_tensors("ties", EXPERTS, BASE, weight=1, rescale="inverse_keep_prob")
