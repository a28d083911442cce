"""Small checkpoints and adapters for merges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.conftest import make_tiny_model


def change(folder: Path, seed: int, scale: float = 0.1, dtype: torch.dtype | None = None) -> None:
    """Add noise to every weight of a checkpoint."""
    file = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (value + scale * torch.randn(value.shape, generator=generator)).to(dtype or value.dtype)
        for name, value in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny ``base`` and its variants ``one``, ``two``, ``three`` (float32, untied)."""
    root = tmp_path_factory.mktemp("variants")
    for place, name in enumerate(("base", "one", "two", "three")):
        make_tiny_model(root / name, tie_word_embeddings=False)
        if place:
            change(root / name, seed=place)
    return root


@pytest.fixture
def write_recipe(tmp_path: Path, variants: Path) -> Callable[..., Path]:
    """Writes a recipe of the three variants; keyword arguments replace keys, ``...`` removes one."""

    def write(name: str = "recipe.yaml", **changes: Any) -> Path:
        recipe: dict[str, Any] = {
            "merge_method": "task_arithmetic",
            "base_model": str(variants / "base"),
            "models": [
                {"model": str(variants / one), "parameters": {"weight": weight}}
                for one, weight in (("one", 0.5), ("two", 0.3), ("three", 0.2))
            ],
        }
        recipe.update(changes)
        path = tmp_path / name
        path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not ...}))
        return path

    return write


def make_adapter(base: Path, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A LoRA adapter with random factors on a tiny model, written by PEFT."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    values = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **settings}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = peft.get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(task_type="CAUSAL_LM", **values)
        )
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder)
    return folder
