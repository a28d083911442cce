"""What trained a system of a study does not measure it, and that is told before anything is trained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.study.conftest import run_quietly, trained
from tests.train.conftest import make_pairs

from trivet.errors import StudyError
from trivet.merge.checkpoint import merge_checkpoints
from trivet.train.running import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_prompts_that_trained_a_system_do_not_measure_it(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    asked = make_pairs(1)[0]["prompt"][0]["content"]
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "a", "prompt": f"{asked.upper()}  "}) + "\n")
    evaluations = [
        {"prompts": "asked.jsonl", "name": "asked", "leg": "harmless", "judge": "refusal_string_match"}
    ]
    with pytest.raises(StudyError, match="among those that trained after"):
        run_quietly(training(evaluations=evaluations), store)


def test_a_judge_that_trained_a_system_does_not_measure_it(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "a", "prompt": "What else?"}) + "\n")
    judge = "refusal_string_match"
    modpo = {"method": "modpo", "margins": {"polite": {"judge": judge}}, "weights": [0.5, 0.5]}
    evaluations = [{"prompts": "asked.jsonl", "name": "asked", "leg": "harmless", "judge": judge}]
    with pytest.raises(StudyError, match="asked is scored by refusal_string_match, which trained after"):
        run_quietly(training(modpo, evaluations=evaluations), store)
    assert not trained(store)  # it is told before the training


def test_what_was_trained_or_merged_elsewhere_says_what_it_learnt_from(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    """``trivet train`` and ``trivet merge`` leave a record beside the weights, which a study reads."""
    settings = yaml.safe_load(training().read_text())["systems"]["after"]["train"]
    method = settings.pop("method")
    train(method, settings, tmp_path / "adapter", base=tmp_path)
    recipe = {
        "merge_method": "linear",
        "base_model": str(tmp_path / "models" / "base"),
        "models": [{"model": str(tmp_path / "adapter"), "parameters": {"weight": 1.0}}],
    }
    merge_checkpoints(recipe, tmp_path / "merged")
    asked = make_pairs(1)[0]["prompt"][0]["content"]
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "a", "prompt": asked}) + "\n")
    evaluations = [
        {"prompts": "asked.jsonl", "name": "asked", "leg": "harmless", "judge": "refusal_string_match"}
    ]
    for model in ("adapter", "merged"):
        systems = {"base": {"model": "models/base"}, "other": {"model": model}}
        with pytest.raises(StudyError, match="among those that trained other"):
            run_quietly(training(systems=systems, evaluations=evaluations), store)
    # What is trained further learnt from them too, which is told before the training.
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs(16)[12:]))
    further = training({"model": "adapter", "data": "others.jsonl"}, evaluations=evaluations)
    with pytest.raises(StudyError, match="among those that trained after"):
        run_quietly(further, store)
    assert not trained(store)
