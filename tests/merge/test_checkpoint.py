"""Configuration, tokenizer and template of a merged checkpoint."""

import json
import shutil

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from trivet.errors import ConfigError, MergeError
from trivet.merge import executor, merge_checkpoints
from trivet.merge.staging import staging_folder


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


def test_special_tokens_have_the_ids_of_the_new_tokenizer(write_recipe, variants, tmp_path):
    """The expert's tokenizer has the end of a turn, and the token after it, the other way round."""
    other = tmp_path / "other"
    shutil.copytree(variants / "one", other)
    content = json.loads((other / "tokenizer.json").read_text())
    end = json.loads((variants / "base/config.json").read_text())["eos_token_id"]
    vocabulary = content["model"]["vocab"]
    ended = next(entry for entry in content["added_tokens"] if entry["id"] == end)
    swapped = max(number for number in vocabulary.values() if number != end)
    name = next(token for token, number in vocabulary.items() if number == swapped)
    ended["id"], vocabulary[name] = swapped, end
    vocabulary[ended["content"]] = swapped
    (other / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((other / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder", None)
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    models = [{"model": str(other), "parameters": {"weight": 1.0}}]
    recipe = write_recipe(models=models, tokenizer={"source": str(other)})
    merge_checkpoints(recipe, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id == swapped
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / file).read_text())["eos_token_id"] == swapped


def test_another_content_of_a_tokenizer_from_elsewhere_is_another_merge(write_recipe, variants, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(variants / "one", other)
    recipe = write_recipe(tokenizer_source=str(other))
    merge_checkpoints(recipe, tmp_path / "out")
    weights = other / "model.safetensors"
    weights.write_bytes((variants / "two/model.safetensors").read_bytes())
    assert merge_checkpoints(recipe, tmp_path / "out").report is None  # nothing but its tokenizer is used
    with_token(other, "<|new|>")
    with pytest.raises(MergeError, match="is there already"):
        merge_checkpoints(recipe, tmp_path / "out")
    made = merge_checkpoints(recipe, tmp_path / "again").report
    assert made is not None and str(other) in made.models
    assert "<|new|>" in AutoTokenizer.from_pretrained(tmp_path / "again").get_vocab()


def with_token(folder, token):
    """Add a token to a saved tokenizer."""
    content = json.loads((folder / "tokenizer.json").read_text())
    number = 1 + max(content["model"]["vocab"].values())
    content["added_tokens"].append({**content["added_tokens"][-1], "content": token, "id": number})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": number + 1}))


def test_ids_that_are_no_tokens_stay_where_no_token_moved(variants, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(variants / "base", base)
    file = base / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token_id": -1}))
    models = [{"model": str(variants / "one"), "parameters": {"weight": 1.0}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": models}
    merge_checkpoints({**recipe, "tokenizer_source": "base"}, tmp_path / "out")
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["pad_token_id"] == -1


def test_the_report_is_about_what_was_written(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "DIAGNOSED", 2**10)
    recipe = write_recipe(tokenizer={"source": "base", "pad_to_multiple_of": 512})
    report = merge_checkpoints(recipe, tmp_path / "out").report
    assert report is not None
    with safe_open(tmp_path / "out/model.safetensors", framework="pt") as file:
        for tensor in report.tensors:
            written = file.get_tensor(tensor.name)
            assert (tensor.shape, tensor.elements) == (tuple(written.shape), written.numel())
    embedding = next(tensor for tensor in report.tensors if "embed_tokens" in tensor.name)
    assert embedding.shape == (512, 32) and embedding.sampled == 2**10
    assert report.bytes_written == sum(4 * tensor.elements for tensor in report.tensors)
