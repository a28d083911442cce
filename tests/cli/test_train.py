"""``trivet train`` as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from tests.train.conftest import make_pairs

from trivet.cli import root

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def settings(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs(12)))
    values = {
        "model": str(tiny_model_folder),
        "data": "pairs.jsonl",
        "held_out": 4,
        "adapter": {"r": 2, "target_modules": ["q_proj"]},
        "trainer": {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.01},
    }
    path = tmp_path / "dpo.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(root, ["train", *map(str, arguments)])


def test_settings_become_an_adapter_once(settings: Path, tmp_path: Path) -> None:
    made = run("dpo", settings, tmp_path / "out")
    assert made.exit_code == 0, made.output
    assert "step 2 of 2: loss" in made.output and "held-out accuracy" in made.output
    assert (tmp_path / "out/adapter_model.safetensors").is_file()
    again = run("dpo", settings, tmp_path / "out")
    assert again.exit_code == 0 and "holds this run already" in again.output
    assert json.loads(run("dpo", settings, tmp_path / "out", "--json").output)["made"] is False


def test_a_method_that_is_not_there_is_a_message(settings: Path, tmp_path: Path) -> None:
    result = run("dpoo", settings, tmp_path / "out")
    assert result.exit_code == 2 and "did you mean 'train/dpo'" in result.output
    assert not (tmp_path / "out").exists()
