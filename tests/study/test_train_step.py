"""In a study, ``train:`` is a step that makes a system's model: once, and never from what is measured."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from tests.conftest import make_tiny_model
from tests.train.conftest import make_pairs

from trivet.errors import ConfigError, StudyError
from trivet.merge.checkpoint import merge_checkpoints
from trivet.study.driver import plan_study, run_study
from trivet.study.finish import Outcome
from trivet.study.spec import load_study
from trivet.study.store import Store
from trivet.study.train_step import read_training
from trivet.train.checkpoints import ResumableTrainer
from trivet.train.running import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
QUIET = Console(quiet=True)


def run(study: Path, store: Path) -> Outcome:
    return run_study(study, store, console=QUIET, show=False)


def trained(store: Path) -> list[Any]:
    return [m for m in Store(store).manifests() if m.description["method"].startswith("train/")]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "store"


@pytest.fixture
def training(write_study: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a study of a base, an adapter on it, and the same adapter with a system prompt."""
    make_tiny_model(tmp_path / "models" / "base")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs(12)))

    def write(changes: dict[str, Any] | None = None, **others: Any) -> Path:
        settings = {
            "method": "dpo",
            "model": "models/base",
            "data": "pairs.jsonl",
            "adapter": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
            "trainer": {
                "max_steps": 4,
                "save_steps": 1,
                "per_device_train_batch_size": 2,
                "learning_rate": 0.05,
            },
            **(changes or {}),
        }
        systems = {
            "base": {"model": "models/base"},
            "after": {"train": settings},
            "after_careful": {"train": settings, "system_prompt": "Be careful."},
        }
        evaluations = [{"task": "tasks.py@letters", "args": {"n": 4}, "leg": "helpful"}]
        return write_study(**{"systems": systems, "evaluations": evaluations, **others})

    return write


def test_one_run_makes_the_model_of_both_systems_and_is_not_repeated(
    training: Callable[..., Path], store: Path
) -> None:
    results = run(training(), store).results
    (made,) = trained(store)
    folder = store / "objects" / made.address / "checkpoint"
    assert {"adapter_config.json", "README.md", "training.json"} <= {path.name for path in folder.iterdir()}
    assert not list((store / "training").iterdir())
    assert {system.name for system in results.systems} == {"base", "after", "after_careful"}
    after = next(system for system in results.systems if system.name == "after")
    assert after.spec["train"]["method"] == "dpo" and str(store) not in json.dumps(after.spec)
    assert after.model == "models/base (train/dpo)"
    run(training(), store)
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
        run(study, store)
    assert not trained(store)
    run(study, store)
    assert steps == [0, 1, "killed", 2, 3] and len(trained(store)) == 1


def test_the_plan_lists_it_before_the_steps_that_need_it(training: Callable[..., Path], store: Path) -> None:
    plan = plan_study(training(), store, console=QUIET)
    names = [step.name for step in plan.steps]
    assert names.index("train after") < names.index("generate after × letters")
    assert "train after_careful" not in names


def test_prompts_that_trained_a_system_do_not_measure_it(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    asked = make_pairs(1)[0]["prompt"][0]["content"]
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "a", "prompt": f"{asked.upper()}  "}) + "\n")
    evaluations = [
        {"prompts": "asked.jsonl", "name": "asked", "leg": "harmless", "judge": "refusal_string_match"}
    ]
    with pytest.raises(StudyError, match="among those that trained after"):
        run(training(evaluations=evaluations), store)


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
    failed = {step.step: step for step in run(training(changes), store).results.failed}
    assert "train after" in failed
    assert re.search(message, failed["train after"].error)
    assert not trained(store)


def test_a_model_beside_it_is_refused(training: Callable[..., Path], tmp_path: Path) -> None:
    study = training()
    study.write_text(study.read_text().replace("after:\n    train:", "after:\n    model: x\n    train:"))
    with pytest.raises(ConfigError, match="has `model` and `train`"):
        load_study(study)


def test_a_step_starts_from_what_another_system_makes(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    """MODPO takes its margin from one training run of the study, a merge takes both; each waits for those
    before it, wherever it stands, and none is measured with a prompt that trained one of them."""
    spec = yaml.safe_load(training().read_text())
    first = spec["systems"]["after"]["train"]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs(16)[12:]))
    modpo = {
        **first,
        "method": "modpo",
        "data": "other.jsonl",
        "objective": "second",
        "margins": {"first": {"model": "system:after"}},
        "weights": {"second": 0.5, "first": 0.5},
    }
    soup = {
        "merge_method": "rewarded_soup",
        "base_model": "models/base",
        "models": [{"model": "system:after"}, {"model": "system:both"}],
    }
    spec["systems"] = {"soup": {"merge": soup}, "both": {"train": modpo}, **spec["systems"]}
    study = training(systems=spec["systems"])
    results = run(study, store).results
    assert [system.name for system in results.systems] == ["soup", "both", "base", "after", "after_careful"]
    assert str(store) not in json.dumps([system.spec for system in results.systems])
    assert next(s for s in results.systems if s.name == "soup").model.startswith("merge of ")
    makers = [m.description["method"] for m in Store(store).manifests() if "made" not in m.description]
    assert {"train/dpo", "train/modpo", "merge/rewarded_soup"} <= set(makers)

    asked = make_pairs(1)[0]["prompt"][0]["content"]
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "a", "prompt": asked}) + "\n")
    evaluations = [
        {"prompts": "asked.jsonl", "name": "asked", "leg": "harmless", "judge": "refusal_string_match"}
    ]
    study = training(systems=spec["systems"], evaluations=evaluations, allow_circular=True)
    assert "among those that trained soup" in json.dumps(run(study, store).results.marks, default=str)


def test_a_judge_that_trained_a_system_does_not_measure_it(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "a", "prompt": "What else?"}) + "\n")
    judge = "refusal_string_match"
    modpo = {"method": "modpo", "margins": {"polite": {"judge": judge}}, "weights": [0.5, 0.5]}
    evaluations = [{"prompts": "asked.jsonl", "name": "asked", "leg": "harmless", "judge": judge}]
    with pytest.raises(StudyError, match="asked is scored by refusal_string_match, which trained after"):
        run(training(modpo, evaluations=evaluations), store)
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
            run(training(systems=systems, evaluations=evaluations), store)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("system:aftr", "merges or trains no system of that name"),
        ("system:base", "merges or trains no system of that name"),
        ("system:two", "made of one another: two → two"),
    ],
)
def test_a_step_that_starts_from_nothing_is_refused(
    training: Callable[..., Path], store: Path, model: str, message: str
) -> None:
    spec = yaml.safe_load(training().read_text())
    spec["systems"]["two"] = {"train": {**spec["systems"]["after"]["train"], "model": model}}
    with pytest.raises(ConfigError, match=message):
        run(training(systems=spec["systems"]), store)


def test_what_starts_from_a_step_that_failed_says_so(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    spec = yaml.safe_load(training().read_text())
    systems = spec["systems"]
    systems["soup"] = {"merge": {"merge_method": "linear", "models": [{"model": "system:after"}] * 2}}
    for name in ("after", "after_careful"):
        systems[name]["train"]["data"] = "nowhere.jsonl"
    results = run(training(systems=systems), store).results
    assert [system.name for system in results.systems] == ["base"]
    assert "starts from what after makes, which failed" in json.dumps(
        [step.model_dump(mode="json") for step in results.failed]
    )


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
        results = run(training(changes), store).results
        failed = {step.step: step for step in results.failed}
        assert failed["train after"].error.count("NO SOLUTION FOUND") == 1
        assert "a new test needs new prompts" in str(failed["train after"].fix)
        assert "base" in {system.name for system in results.systems} and not trained(store)
    ledger = (tmp_path / "prompts.jsonl.gate" / "ledger.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "finished" for line in ledger) == 1
