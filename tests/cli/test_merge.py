"""``trivet merge`` as a user types it."""

import json

import pytest
import yaml
from click.testing import CliRunner

from trivet.cli import root


@pytest.fixture
def recipe(tmp_path, tiny_model_folder):
    path = tmp_path / "recipe.yaml"
    values = {
        "merge_method": "task_arithmetic",
        "base_model": f"{tiny_model_folder}/.",
        "models": [{"model": str(tiny_model_folder), "parameters": {"weight": 0.5}}],
    }
    path.write_text(yaml.safe_dump(values))
    return path


def run(*arguments):
    return CliRunner().invoke(root, ["merge", *map(str, arguments)])


def test_a_recipe_becomes_a_folder_once(recipe, tmp_path):
    made = run(recipe, tmp_path / "out")
    assert made.exit_code == 0, made.output
    assert f"{tmp_path / 'out'}  (" in made.output
    assert (tmp_path / "out/model.safetensors").is_file()
    again = run(recipe, tmp_path / "out")
    assert again.exit_code == 0 and "holds this merge already" in again.output
    as_json = json.loads(run(recipe, tmp_path / "out", "--json").output)
    assert as_json["made"] is False


def test_the_plan_writes_nothing(recipe, tmp_path):
    planned = run(recipe, tmp_path / "out", "--plan", "--json")
    cost = json.loads(planned.output)
    assert cost["models"] == 2 and cost["bytes_read"] > 0 and cost["seconds"] > 0
    assert "memory" in run(recipe, tmp_path / "out", "--plan").output
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_method": "tiess"}, "did you mean 'ties'"),
        ({"base_model": "./nowhere"}, "no such file or folder"),
        ({"parameters": {"lamda": 1}}, "did you mean 'lambda'"),
    ],
)
def test_a_mistake_is_one_message(recipe, tmp_path, change, message):
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **change}))
    failed = run(recipe, tmp_path / "out")
    assert failed.exit_code == 2 and message in failed.output
    assert "Traceback" not in failed.output
    assert not (tmp_path / "out").exists()


def test_a_missing_recipe_and_a_foreign_folder(recipe, tmp_path):
    assert "no such file" in run(tmp_path / "none.yaml", tmp_path / "out").output
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("keep")
    refused = run(recipe, tmp_path / "out")
    assert refused.exit_code == 2 and "is there already" in refused.output
    assert (tmp_path / "out/mine.txt").read_text() == "keep"


def test_help_shows_examples():
    shown = run("--help")
    assert shown.exit_code == 0 and "trivet merge recipe.yaml merged" in shown.output
