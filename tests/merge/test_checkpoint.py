"""Configuration, tokenizer and template of a merged checkpoint."""

import json

import pytest
from transformers import AutoTokenizer

from trivet.errors import ConfigError
from trivet.merge import merge_checkpoints
from trivet.merge.executor import staging_folder


def test_files_of_the_base_come_along(write_recipe, variants, tmp_path):
    merge_checkpoints(write_recipe(), tmp_path / "out")
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (variants / "base" / name).read_bytes()
    assert (tmp_path / "out/merge_recipe.yaml").read_text() == (tmp_path / "recipe.yaml").read_text()


def test_a_chat_template_of_the_recipe_replaces_the_models(write_recipe, tmp_path):
    template = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    merge_checkpoints(write_recipe(chat_template=template), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<user>hi"
    with pytest.raises(ConfigError, match="chat template"):
        merge_checkpoints(write_recipe(chat_template="chatlm"), tmp_path / "other")
    assert not staging_folder(tmp_path / "other").exists()  # said before anything is merged


def test_a_union_of_vocabularies_sets_its_size(write_recipe, tmp_path):
    merge_checkpoints(write_recipe(tokenizer={"source": "union", "pad_to_multiple_of": 64}), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vocab_size"] % 64 == 0 and config["vocab_size"] >= 400
    assert not staging_folder(tmp_path / "out").exists()


def test_relative_names_are_looked_for_beside_the_recipe(variants, tmp_path, monkeypatch):
    import shutil

    import yaml

    for name in ("base", "one"):
        shutil.copytree(variants / name, tmp_path / "recipes" / name)
    recipe = tmp_path / "recipes/r.yaml"
    values = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "./one", "parameters": {"weight": 1}}],
    }
    recipe.write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    made = merge_checkpoints(recipe, tmp_path / "out").report
    assert made is not None and made.experts == ["./one"]
