"""Sequence classifiers: a new head by the seed, and what is no classifier is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trivet.errors import ModelError
from trivet.models.classifiers import load_classifier, padding_of
from trivet.models.names import resolve_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def load(folder: Path, **options: Any) -> tuple[Any, Any]:
    return load_classifier(resolve_model(str(folder)), dtype=torch.float32, **options)


def test_a_new_head_is_drawn_from_torchs_generator(tiny_model_folder: Path) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(load(tiny_model_folder, new_head=True)[0].score.weight)
    assert heads[0].shape == (1, 32)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_it_comes_back_as_it_was_saved(tiny_model_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load(tiny_model_folder, new_head=True)
    model.config.pad_token_id = padding_of(tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load(tmp_path)
    tokens = torch.tensor([[5, 6, 7, 2], [8, 9, 2, 2]])
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits)


def test_an_adapter_without_its_head_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    for task, message in (("SEQ_CLS", "does not hold the head"), ("CAUSAL_LM", "of a language model")):
        folder = tmp_path / task
        model, _ = load(tiny_model_folder, new_head=True)
        settings = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
        get_peft_model(model, settings).save_pretrained(folder)
        kept = {
            name: t
            for name, t in load_file(folder / "adapter_model.safetensors").items()
            if "score" not in name
        }
        save_file(kept, folder / "adapter_model.safetensors")
        config = folder / "adapter_config.json"
        config.write_text(config.read_text().replace('"SEQ_CLS"', f'"{task}"'))
        with pytest.raises(ModelError, match=message):
            load(folder)


def test_an_endpoint_is_refused() -> None:
    reference = resolve_model("openai:http://localhost:1/v1#a")
    with pytest.raises(ModelError, match="not a folder of weights"):
        load_classifier(reference, dtype=torch.float32)
