"""Tensors whose rows are tokens, under a tokenizer rule."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.merge.conftest import change

from trivet.errors import MergeError
from trivet.merge import merge_checkpoints
from trivet.merge.executor import prepare
from trivet.merge.groups import merged_tensors
from trivet.merge.recipe import parse_recipe

PADDED = {"source": "base", "pad_to_multiple_of": 64}  # 400 tokens, 448 rows


def recipe_of(base, *experts, **changes):
    models = [{"model": str(expert), "parameters": {"weight": 1.0}} for expert in experts]
    return {"merge_method": "task_arithmetic", "base_model": str(base), "models": models, **changes}


def test_a_tied_expert_gives_its_embedding_as_its_output_layer(variants, tiny_model, tmp_path):
    tied = tiny_model(tie_word_embeddings=True, seed=3)
    merge_checkpoints(recipe_of(variants / "base", tied, tokenizer=PADDED), tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    expected = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert merged[name].shape == (448, 32)
        torch.testing.assert_close(merged[name][:400], expected)
        torch.testing.assert_close(merged[name][400:], expected.mean(dim=0).expand(48, 32))


def test_a_bias_has_one_number_for_each_token(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    base, expert = (tiny_model("phi", num_key_value_heads=4) for _ in range(2))
    change(expert, seed=2)
    recipe = recipe_of(base, expert, tokenizer=PADDED)
    merge_checkpoints(recipe, tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    expected = load_file(expert / "model.safetensors")["lm_head.bias"]
    assert merged["lm_head.bias"].shape == (448,)
    torch.testing.assert_close(merged["lm_head.bias"][:400], expected)
    torch.testing.assert_close(merged["lm_head.bias"][400:], expected.mean().expand(48))
    merge = prepare(parse_recipe(recipe), folder=tmp_path, where="recipe")
    running = dict(merged_tensors(merge))
    merge.sources.close()
    assert all(torch.equal(running[name], value) for name, value in merged.items())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.bias.shape == (448,)


def test_models_whose_rows_do_not_fit_are_told_before_anything_is_written(variants, tmp_path):
    narrow = tmp_path / "narrow"
    shutil.copytree(variants / "one", narrow)
    file = narrow / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :16].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(MergeError, match=r"lm_head\.weight has the shape \[400, 16\]") as raised:
        merge_checkpoints(recipe_of(variants / "base", narrow, tokenizer=PADDED), tmp_path / "out")
    assert str(narrow) in str(raised.value)
    slices = [
        {"sources": [{"model": str(variants / "base"), "layer_range": [0, 2]}]},
        {"sources": [{"model": str(narrow), "layer_range": [1, 2]}]},
        {"sources": [{"model": str(variants / "two"), "layer_range": [1, 2]}]},
    ]
    stacked = {"merge_method": "passthrough", "slices": slices, "tokenizer": PADDED}
    with pytest.raises(MergeError, match=r"lm_head\.weight has the shape"):
        merge_checkpoints(stacked, tmp_path / "out")  # not merged into it, yet other models may need its rows
    del tensors["lm_head.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(MergeError, match=r"lacks the tensor lm_head\.weight"):
        merge_checkpoints(stacked, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
