"""A soup of adapters is the weighted sum of their deltas: the baseline of MODPO (card 26, check 10)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.merge.conftest import make_adapter

from trivet.merge import merge_checkpoints

WEIGHTS = (0.3, 0.7)


def with_peft(base: Path, adapters: list[Path], **combination: Any) -> dict[str, torch.Tensor]:
    """The weights of the base with the adapters combined by PEFT."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), adapters[0], adapter_name="one"
    )
    model.load_adapter(adapters[1], adapter_name="two")
    model.add_weighted_adapter(["one", "two"], list(WEIGHTS), "soup", **combination)
    model.set_adapter("soup")
    found: dict[str, torch.Tensor] = model.merge_and_unload().state_dict()
    return found


@pytest.mark.parametrize(
    ("recipe", "ranks"),
    [
        ({"merge_method": "rewarded_soup"}, (4, 3)),
        ({"merge_method": "linear"}, (4, 3)),
        ({"merge_method": "task_arithmetic"}, (4, 4)),
    ],
    ids=["rewarded_soup", "linear", "task_arithmetic"],
)
def test_a_soup_of_adapters_is_pefts_concatenation(
    variants: Path, tmp_path: Path, recipe: dict[str, Any], ranks: tuple[int, int]
) -> None:
    base = variants / "base"
    adapters = [
        make_adapter(base, tmp_path / f"adapter{seed}", seed=seed, r=rank, lora_alpha=6 + seed)
        for seed, rank in enumerate(ranks)
    ]
    models = [
        {"model": str(adapter), "parameters": {"weight": weight}}
        for adapter, weight in zip(adapters, WEIGHTS, strict=True)
    ]
    merge_checkpoints({**recipe, "base_model": str(base), "models": models}, tmp_path / "soup")
    found, before = load_file(tmp_path / "soup" / "model.safetensors"), load_file(base / "model.safetensors")

    def distance(expected: dict[str, torch.Tensor]) -> float:
        return max(float((found[name] - expected[name]).abs().max()) for name in found)

    moved = distance(before)
    assert moved > 0.05
    assert distance(with_peft(base, adapters, combination_type="cat")) < 1e-5
    assert distance(with_peft(base, adapters, combination_type="svd", svd_rank=sum(ranks))) < 1e-5
    if ranks[0] == ranks[1]:  # A and B averaged apart are no soup
        assert distance(with_peft(base, adapters, combination_type="linear")) > moved / 4
