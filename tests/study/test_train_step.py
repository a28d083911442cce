"""In a study, ``train:`` is a step that makes a system's model, once."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.study.conftest import QUIET, run_quietly, trained
from tests.train.conftest import make_pairs

from trivet.errors import ConfigError, StudyError
from trivet.study.driver import plan_study
from trivet.study.spec import load_study
from trivet.study.store import Store
from trivet.study.train_step import read_training
from trivet.train.checkpoints import ResumableTrainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_one_run_makes_the_model_of_both_systems_and_is_not_repeated(
    training: Callable[..., Path], store: Path
) -> None:
    results = run_quietly(training(), store).results
    (made,) = trained(store)
    folder = store / "objects" / made.address / "checkpoint"
    assert {"adapter_config.json", "README.md", "training.json"} <= {path.name for path in folder.iterdir()}
    assert not list((store / "training").iterdir())
    assert {system.name for system in results.systems} == {"base", "after", "after_careful"}
    after = next(system for system in results.systems if system.name == "after")
    assert after.spec["train"]["method"] == "dpo" and str(store) not in json.dumps(after.spec)
    assert after.model == "models/base (train/dpo)"
    run_quietly(training(), store)
    assert len(trained(store)) == 1


def test_what_changes_the_weights_changes_the_address(training: Callable[..., Path], tmp_path: Path) -> None:
    def address() -> str:
        return read_training(load_study(study), "after", study).description.address

    study = training()
    plain = address()
    study = training({"seed": 1})
    assert address() != plain
    study = training({"trainer": {"max_steps": 3}})
    assert address() != plain
    study = training()
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs(11)))
    assert address() != plain


def test_interrupted_it_goes_on_after_the_last_checkpoint(
    training: Callable[..., Path], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = training()
    plain, steps = ResumableTrainer.training_step, []

    def dying(self: ResumableTrainer, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == 2 and not steps.count("killed"):
            steps.append("killed")
            raise KeyboardInterrupt
        steps.append(self.state.global_step)
        return plain(self, *arguments, **options)

    monkeypatch.setattr(ResumableTrainer, "training_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run_quietly(study, store)
    assert not trained(store)
    with Store(store).driver() as opened:
        opened.gc()
    run_quietly(study, store)
    assert steps == [0, 1, "killed", 2, 3] and len(trained(store)) == 1


@pytest.mark.slow
def test_a_plan_trains_nothing_and_lists_what_needs_training(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    soup = {
        "merge_method": "linear",
        "models": [{"model": "models/base+system:after"}, {"model": "models/base"}],
    }
    systems = yaml.safe_load(training().read_text())["systems"]
    systems |= {"soup": {"merge": soup}, "runs": {"model": "system:soup"}}
    study = training(systems=systems)
    for minutes in (None, 5.0):
        plan = plan_study(study, store, console=QUIET, minutes=minutes)
        assert not trained(store) and not (store / "training").exists()
        steps = {step.name: step for step in plan.steps}
        names = list(steps)
        assert names.index("train after") < names.index("merge soup") < names.index("generate base × letters")
        assert "train after_careful" not in steps and steps["train after"].seconds is None
        assert steps["merge soup"].after == ("train after",)
        assert steps["generate after_careful × letters"].after == ("train after",)
        assert steps["generate runs × letters"].after == ("merge soup",)
        assert steps["generate after × letters"].seconds is steps["latency soup"].seconds is None
        assert steps["generate base × letters"].seconds is not None
        assert not any(step.done for step in plan.steps if step.kind in ("train", "merge"))
        assert "not measured yet, and not in the time: after, after_careful, soup, runs" in plan.notes[0]
    run_quietly(study, store)
    plan = plan_study(study, store, console=QUIET)
    steps = {step.name: step for step in plan.steps}
    assert steps["train after"].done and steps["generate runs × letters"].seconds is not None
    assert not plan.notes


def test_a_plan_says_what_training_would_be_circular(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    asked = make_pairs(1)[0]["prompt"][0]["content"]
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "a", "prompt": asked}) + "\n")
    evaluations = [
        {"prompts": "asked.jsonl", "name": "asked", "leg": "harmless", "judge": "refusal_string_match"}
    ]
    with pytest.raises(StudyError, match="among those that trained after"):
        plan_study(training(evaluations=evaluations), store, console=QUIET)
    plan = plan_study(training(evaluations=evaluations, allow_circular=True), store, console=QUIET)
    assert {mark["system"] for mark in plan.marks} == {"after", "after_careful"}
    assert not trained(store)


@pytest.mark.parametrize(
    ("changes", "message", "fix"),
    [
        ({"method": "reward_model"}, "gives a judge and no language model", "trivet train reward_model"),
        ({"method": "cost_model"}, "gives a judge and no language model", "judge: FOLDER"),
        (
            {
                "method": "modpo",
                "objective": "one",
                "margins": {"two": {"judge": "refusal_string_match"}},
                "weights": [{"one": 0.5, "two": 0.5}, {"one": 1, "two": 0}],
            },
            "a front of several models",
            "one system for each vector",
        ),
    ],
)
def test_training_that_gives_no_single_language_model_is_refused_before_anything_runs(
    training: Callable[..., Path], store: Path, changes: dict[str, Any], message: str, fix: str
) -> None:
    study = training(changes)
    for start in (lambda: run_quietly(study, store), lambda: plan_study(study, store, console=QUIET)):
        with pytest.raises(ConfigError, match=message) as raised:
            start()
        assert fix in str(raised.value.hint) and "systems.after.train" in str(raised.value.where)
    assert not Store(store).manifests() and not (store / "training").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dpoo"}, "dpo"),
        ({"betta": 1}, r"systems\.after\.train: .*unknown key 'betta'"),
        ({"data": "nowhere.jsonl"}, "no such file"),
    ],
)
def test_mistakes_name_study_system_and_key(
    training: Callable[..., Path], store: Path, changes: dict[str, Any], message: str
) -> None:
    failed = {step.step: step for step in run_quietly(training(changes), store).results.failed}
    assert "train after" in failed
    assert re.search(message, failed["train after"].error)
    assert not trained(store)


def test_a_model_beside_it_is_refused(training: Callable[..., Path], tmp_path: Path) -> None:
    study = training()
    study.write_text(study.read_text().replace("after:\n    train:", "after:\n    model: x\n    train:"))
    with pytest.raises(ConfigError, match="has `model` and `train`"):
        load_study(study)


@pytest.mark.slow
def test_no_solution_is_one_message_and_is_not_trained_again(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    """HC-RLHF without a policy it may give: systems that need it fail with its sentence, the base runs."""
    rows = [{"prompt": f"What is {number}?"} for number in range(40)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {
        "method": "high_confidence_rlhf",
        "data": "prompts.jsonl",
        "held_out": 4,
        "safety": 20,
        "candidates": 1,
        "reward": "refusal_string_match",
        "cost": "refusal_string_match",
        "limit": 0.2,
        "trainer": {
            "max_steps": 1,
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_completion_length": 4,
        },
    }
    for _ in range(2):
        results = run_quietly(training(changes), store).results
        failed = {step.step: step for step in results.failed}
        assert failed["train after"].error.count("NO SOLUTION FOUND") == 1
        assert "a new test needs new prompts" in str(failed["train after"].fix)
        assert "base" in {system.name for system in results.systems} and not trained(store)
        with Store(store).driver() as opened:
            opened.gc()
    ledger = (tmp_path / "prompts.jsonl.gate" / "ledger.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "finished" for line in ledger) == 1
    run_quietly(training(), store)  # with other settings, the study needs it no more
    with Store(store).driver() as opened:
        opened.gc()
    assert not list((store / "training").iterdir())
