"""``system:NAME`` is what another system of the study makes, wherever a model is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.study.conftest import run_quietly, trained
from tests.train.conftest import make_pairs

from trivet.errors import ConfigError
from trivet.study.checkpoint_step import systems_used
from trivet.study.spec import load_study
from trivet.study.store import Store
from trivet.study.systems import read_system

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.slow
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
    results = run_quietly(study, store).results
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
    assert "among those that trained soup" in json.dumps(run_quietly(study, store).results.marks, default=str)


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
        run_quietly(training(systems=spec["systems"]), store)


def test_what_starts_from_a_step_that_failed_says_so(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    spec = yaml.safe_load(training().read_text())
    systems = spec["systems"]
    systems["soup"] = {"merge": {"merge_method": "linear", "models": [{"model": "system:after"}] * 2}}
    for name in ("after", "after_careful"):
        systems[name]["train"]["data"] = "nowhere.jsonl"
    results = run_quietly(training(systems=systems), store).results
    assert [system.name for system in results.systems] == ["base"]
    assert "starts from what after makes, which failed" in json.dumps(
        [step.model_dump(mode="json") for step in results.failed]
    )


def systems_that_run_what_is_made(training: Callable[..., Path]) -> dict[str, Any]:
    """In place with a system prompt, in a file, beside another model; each stands before what it needs."""
    study = training()
    (study.parent / "file.yaml").write_text("model: system:after\nsystem_prompt: 'system: be brief'\n")
    careful = {"model": "system:after", "system_prompt": "Be careful."}
    beside = {"method": "eft", "tuned": {"x": "system:after"}, "base": "models/base"}
    return {
        "careful": careful,
        "file": "file.yaml",
        "beside": {"model": "models/base", "decode": beside},
        **yaml.safe_load(study.read_text())["systems"],
    }


def test_a_plain_system_runs_what_another_one_makes(
    training: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    """And is not measured with what trained that, unless it is allowed and marked."""
    asked = make_pairs(1)[0]["prompt"][0]["content"]
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "a", "prompt": asked}) + "\n")
    evaluations = [
        {"prompts": "asked.jsonl", "name": "asked", "leg": "harmless", "judge": "refusal_string_match"}
    ]
    systems = systems_that_run_what_is_made(training)
    study = training(systems=systems, evaluations=evaluations, allow_circular=True)
    results = run_quietly(study, store).results
    assert {mark.system for mark in results.marks} == set(systems) - {"base"}
    assert not results.failed and [system.name for system in results.systems] == list(systems)
    shown = {system.name: system for system in results.systems}
    assert shown["careful"].spec["model"] == shown["file"].spec["model"] == "system:after"
    assert shown["careful"].model == "system:after" and "train/dpo" in str(shown["careful"].model_source)
    assert shown["beside"].spec["decode"]["tuned"] == {"x": "system:after"}
    written = [store / "results.json", store / "report.html", store / "transcripts.jsonl"]
    assert not any(str(store) in path.read_text() for path in written)
    # It is what it runs: the same system, written with its training in place, has the same content.
    assert shown["careful"].identity.split("@")[1] == shown["after_careful"].identity.split("@")[1]
    assert len(trained(store)) == 1


def test_a_maker_that_fails_fails_what_runs_its_model_and_no_other(
    training: Callable[..., Path], store: Path
) -> None:
    systems = systems_that_run_what_is_made(training)
    for name in ("after", "after_careful"):
        systems[name]["train"]["data"] = "nowhere.jsonl"
    results = run_quietly(training(systems=systems), store).results
    assert [system.name for system in results.systems] == ["base"]
    failed = {step.step: step.error for step in results.failed}
    for name in ("careful", "file", "beside"):
        assert "runs what after makes, which failed" in failed[f"system {name}"]


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"model": "system:aftr"}, "merges or trains no system of that name"),
        ("system:base", "merges or trains no system of that name"),
        ({"model": "models/base", "decode": {"method": "eft", "tuned": {"x": "system:x"}}}, "no system of"),
    ],
)
def test_a_plain_system_that_runs_what_nobody_makes_is_refused(
    training: Callable[..., Path], store: Path, system: Any, message: str
) -> None:
    systems = yaml.safe_load(training().read_text())["systems"]
    with pytest.raises(ConfigError, match=message):
        run_quietly(training(systems={**systems, "plain": system}), store)
    assert not Store(store).manifests()


def test_another_engine_does_not_run_what_a_study_makes(training: Callable[..., Path]) -> None:
    study = training(systems={"plain": {"model": "system:after", "engine": "llamacpp"}})
    with pytest.raises(ConfigError, match="does not run what a study makes"):
        read_system("plain", load_study(study), study.parent)


def test_texts_are_no_names() -> None:
    texts = {"model": "m", "decode": {"principle": "system: be kind + system: be brief"}}
    assert systems_used({**texts, "system_prompt": "system:after"}) == set()
    assert systems_used({"model": "m+system:a", "guards": [{"x": {"y": "system:b"}}]}) == {"a", "b"}
