"""Recipes: mergekit's form is read as it is, and mistakes are named."""

import pytest
import yaml

from trivet.errors import ConfigError
from trivet.merge.recipe import load_recipe, parse_recipe

MODELS = [{"model": "a"}, {"model": "b", "parameters": {"weight": 0.5}}]


def test_the_three_forms_are_one():
    by_models = parse_recipe({"merge_method": "linear", "models": MODELS})
    assert [model.model for model in by_models.module.models or ()] == ["a", "b"]
    slices = [{"sources": [{"model": "a", "layer_range": [0, 4]}, {"model": "b", "layer_range": [2, 6]}]}]
    by_slices = parse_recipe({"merge_method": "linear", "slices": slices})
    assert by_slices.module.slices is not None and by_slices.module.slices[0].layers == 4
    by_modules = parse_recipe({"merge_method": "linear", "modules": {"default": {"slices": slices}}})
    assert by_modules.module == by_slices.module
    assert by_modules.model_names() == ["a", "b"]


def test_names_of_the_field_are_known():
    assert parse_recipe({"merge_method": "r_tsvm", "base_model": "x", "models": MODELS}).method == "resm"
    assert parse_recipe({"merge_method": "della_ties", "base_model": "x", "models": MODELS}).method == "della"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge_method": "tie"}, "did you mean 'ties'"),
        ({"dtyp": "float32"}, "did you mean 'dtype'"),
        ({"models": []}, "exactly one of"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": [0, 4]}]}]}, "exactly one of"),
        ({"dtype": "int8"}, "dtype"),
        ({"tokenizer_source": "base", "tokenizer": {"source": "union"}}, "either `tokenizer_source`"),
        ({"models": [{"model": "a", "parameter": {}}]}, "did you mean 'parameters'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mistakes_are_named(changes, message):
    values = {"merge_method": "linear", "models": MODELS, **changes}
    with pytest.raises(ConfigError) as raised:
        parse_recipe(values, where="my.yaml")
    assert "my.yaml" in str(raised.value) and message in str(raised.value)


def test_slices_are_checked():
    bad = [{"sources": [{"model": "a", "layer_range": [0, 4]}, {"model": "b", "layer_range": [0, 3]}]}]
    with pytest.raises(ConfigError, match="same number of layers"):
        parse_recipe({"merge_method": "linear", "slices": bad})
    with pytest.raises(ConfigError, match="layer_range"):
        parse_recipe(
            {"merge_method": "linear", "slices": [{"sources": [{"model": "a", "layer_range": [3, 3]}]}]}
        )


def test_a_file_is_named_in_the_message(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"merge_method": "linear"}))
    with pytest.raises(ConfigError, match=r"r\.yaml"):
        load_recipe(path)
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")
