"""``trivet models``."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trivet.cli.models import command
from trivet.errors import ModelError


def test_list_names_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path))
    result = CliRunner().invoke(command, ["list"])
    assert result.exit_code == 0 and "trivet models pull smollm2-135m-instruct" in result.output
    [entry] = json.loads(CliRunner().invoke(command, ["list", "--json"]).output)
    assert entry == {"name": "smollm2-135m-instruct", "folder": None, "source": {}}


def test_show_gives_the_hash(tiny_model_folder: Path) -> None:
    facts = json.loads(CliRunner().invoke(command, ["show", str(tiny_model_folder), "--json"]).output)
    assert facts["kind"] == "folder" and len(facts["identity"]) == 64
    assert facts["identity"] in CliRunner().invoke(command, ["show", str(tiny_model_folder)]).output


def test_pull_of_a_folder_prints_it_and_endpoints_are_refused(tiny_model_folder: Path) -> None:
    result = CliRunner().invoke(command, ["pull", str(tiny_model_folder)])
    assert result.output.strip() == str(tiny_model_folder)
    assert CliRunner().invoke(command, ["pull", "inspect:mockllm/model"]).exit_code == 2


def test_an_unknown_model_is_an_error_for_the_user() -> None:
    with pytest.raises(ModelError, match="did you mean"):
        CliRunner().invoke(command, ["show", "smollm2-135m"], catch_exceptions=False)


def test_help_has_examples() -> None:
    for verb in ([], ["pull"], ["show"]):
        assert "Example" in CliRunner().invoke(command, [*verb, "--help"]).output
