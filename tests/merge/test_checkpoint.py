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


def test_special_tokens_have_the_ids_of_the_new_tokenizer(write_recipe, variants, tmp_path):
    """The expert's tokenizer has the end of a turn, and the token after it, the other way round."""
    import shutil

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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"eos_token_id": 1}, {"eos_token_id": 7}),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": [7, 9]}),
        ({"eos_token_id": [1, 3]}, {"eos_token_id": [7]}),
        ({"pad_token_id": 3}, {"pad_token_id": 5}),  # gone: the new tokenizer's own
        ({"bos_token_id": 3, "hidden_size": 3}, {"hidden_size": 3}),
        ({"eos_token_id": None}, {"eos_token_id": None}),
    ],
)
def test_ids_move_with_their_tokens(given, expected):
    from trivet.merge.special_tokens import with_moved_ids

    before, after = {"<e>": 1, "<t>": 2, "<gone>": 3}, {"<e>": 7, "<t>": 9, "<p>": 5}
    assert with_moved_ids(given, before, after, {"pad_token_id": 5}) == expected
