"""Every example is what it says it is: its keys are right and its names exist."""

import re
from pathlib import Path

import pytest

from trivet._validation import read_yaml, validate
from trivet.catalogue import find, names
from trivet.data.prompts import prompt_digest
from trivet.data.suites import names as suite_names
from trivet.data.suites import suite_rows
from trivet.merge.recipe import Recipe, load_recipe
from trivet.models.names import MADE
from trivet.study.spec import SHIPPED, load_study, recipe_of
from trivet.study.train_step import read_settings
from trivet.systems import load_spec
from trivet.systems.parts import decoding_part

EXAMPLES = Path(__file__).parents[2] / "examples"
EMBEDDED = "smollm2-135m-instruct"


def check_experts(recipe: Recipe, folder: Path) -> None:
    base, *experts = recipe.model_names()
    assert base == EMBEDDED
    if all(name.startswith(MADE) for name in experts):  # the study refuses one that it does not make
        return
    assert [(folder / name).resolve() for name in experts] == [
        EXAMPLES / "merge/experts" / name for name in ("helpful", "honest", "harmless")
    ]
    for name in experts:
        assert (folder / name / "adapter_model.safetensors").is_file(), name


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_studies(path):
    study = load_study(path)
    assert len(study.systems) >= 4
    # Capability is a column and not a leg: a study of slow searches may leave it out.
    shipped = set(SHIPPED) - {"capability_ll"}
    assert shipped - {"capability"} <= {entry.label for entry in study.evaluations} <= shipped
    for name, value in study.systems.items():
        if name in study.merge_systems:
            recipe, _, folder = recipe_of(study, name, path)
            check_experts(recipe, folder)
        elif name in study.train_systems:
            method, _, config = read_settings(study, name, path)
            assert method.room == "train" and (config.model == EMBEDDED or config.model.startswith(MADE))
        else:
            spec, _ = load_spec(value, base=path.parent)
            assert spec.model == EMBEDDED


def test_the_showcase_has_every_decoding_method_and_their_settings_are_valid():
    study = load_study(EXAMPLES / "showcase.yaml")
    shown = set()
    for name, value in study.systems.items():
        if name not in (*study.merge_systems, *study.train_systems):
            spec, _ = load_spec(value, base=EXAMPLES)
            shown.add(decoding_part(spec.decode, base=EXAMPLES, where=name).method.name)
    assert shown == set(names("decode"))


def test_the_showcase_has_every_merging_method_that_takes_three_experts():
    path = EXAMPLES / "showcase.yaml"
    study = load_study(path)
    shown = {f"merge/{recipe_of(study, name, path)[0].method}" for name in study.merge_systems}
    assert shown == set(names("merge")) - {"merge/passthrough", "merge/slerp"}


def test_the_showcase_has_every_training_method_that_makes_a_system_and_learns_from_no_prompt_that_measures():
    path = EXAMPLES / "showcase.yaml"
    study = load_study(path)
    read = [read_settings(study, name, path) for name in study.train_systems]
    left_out = {"train/reward_model", "train/cost_model", "train/high_confidence_rlhf"}
    assert {method.name for method, _, _ in read} == set(names("train")) - left_out
    measured = {prompt_digest(row["prompt"]) for suite in suite_names() for row in suite_rows(suite)}
    for _, _, config in read:
        assert not config.prompts(EXAMPLES) & measured


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("merge/*.yaml")), ids=lambda path: path.name)
def test_recipes(path):
    check_experts(load_recipe(path), path.parent)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("train/*.yaml")), ids=lambda path: path.name)
def test_training(path):
    """The comment that shows the command names the method and this very file."""
    text, file = path.read_text(encoding="utf-8"), path.relative_to(EXAMPLES.parent)
    (name,) = re.findall(rf"^#   trivet train (\w+) {re.escape(str(file))} \S+$", text, re.MULTILINE)
    method = find(f"train/{name}")
    config = validate(method.config, read_yaml(path), where=str(path))
    assert config.model in (EMBEDDED, "HuggingFaceTB/SmolLM2-135M")
    assert "hh-single-turn" in config.data
    for other in re.findall(r"trivet train \w+ (\S+)", text):  # of steps before it
        assert (EXAMPLES.parent / other).is_file()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("systems/*.yaml")), ids=lambda path: path.name)
def test_systems(path):
    spec, folder = load_spec(str(path))
    assert spec.name == path.stem and folder == path.parent
