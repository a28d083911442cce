"""In a study, ``merge:`` is a step that makes a checkpoint."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file
from tests.conftest import make_tiny_model

from trivet.errors import ConfigError
from trivet.study.driver import plan_study, run_study
from trivet.study.finish import Outcome
from trivet.study.manifest import Manifest
from trivet.study.merge_step import MergeStep, read_merge
from trivet.study.show import print_plan
from trivet.study.spec import load_study
from trivet.study.store import Store

RECIPE: dict[str, Any] = {
    "merge_method": "task_arithmetic",
    "base_model": "models/base",
    "models": [{"model": "models/one"}, {"model": "models/two"}],
    "parameters": {"weight": 0.5},
}
QUIET = Console(quiet=True)


def run(study: Path, store: Path) -> Outcome:
    return run_study(study, store, console=QUIET, show=False)


def merges(store: Path) -> list[Manifest]:
    return [m for m in Store(store).manifests() if m.description["method"].startswith("merge/")]


def state(store: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in store.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def merging(write_study: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a study of a base, a merge of two variants of it, and the same merge with a system prompt."""
    for seed, name in enumerate(("base", "one", "two")):
        make_tiny_model(tmp_path / "models" / name, seed=seed)
    (tmp_path / "recipes").mkdir()
    beside = json.loads(json.dumps(RECIPE).replace("models/", "../models/"))
    (tmp_path / "recipes/mean.yaml").write_text(yaml.safe_dump(beside))
    systems = {
        "base": {"model": "models/base"},
        "merged": {"merge": RECIPE},
        "merged_careful": {"merge": "recipes/mean.yaml", "system_prompt": "Be careful."},
    }
    evaluations = [{"task": "tasks.py@letters", "args": {"n": 4}, "leg": "helpful"}]
    return lambda **changes: write_study(**{"systems": systems, "evaluations": evaluations, **changes})


def step_of(study: Path, system: str = "merged") -> MergeStep:
    return read_merge(load_study(study), system, study)


class TestAddress:
    def test_names_and_places_are_not_in_it_and_contents_are(self, merging, tmp_path):
        study = merging()
        step = step_of(study)
        assert step.description.address == step_of(study, "merged_careful").description.address
        (tmp_path / "models").rename(tmp_path / "elsewhere")
        moved = json.loads(json.dumps(RECIPE).replace("models/", "elsewhere/"))
        assert (
            step_of(merging(systems={"merged": {"merge": moved}})).description.address
            == step.description.address
        )
        described = step.description.as_json()
        assert (described["method"], described["seed"]) == ("merge/task_arithmetic", 0)
        assert set(described["inputs"]) == {"base", "model 1", "model 2"}
        assert "models/" not in json.dumps(described) and str(tmp_path) not in json.dumps(described)

    @pytest.mark.parametrize(
        "change",
        [
            {"parameters": {"weight": 0.4}},
            {"merge_method": "linear"},
            {"seed": 1},
            {"out_dtype": "bfloat16"},
            {"models": RECIPE["models"][::-1]},
            {"models": RECIPE["models"][:1]},
            {"base_model": "models/two"},
        ],
    )
    def test_what_changes_the_output_changes_it(self, merging, change):
        step = step_of(merging())
        assert (
            step_of(merging(systems={"merged": {"merge": {**RECIPE, **change}}})).description.address
            != step.description.address
        )

    def test_a_models_tokenizer_is_part_of_it(self, merging, tmp_path):
        step = step_of(merging())
        template = tmp_path / "models/one/chat_template.jinja"
        template.write_text(template.read_text() + "{# changed #}")
        assert step_of(merging()).description.address != step.description.address

    def test_of_a_model_that_gives_its_tokenizer_alone_the_tokenizer_is_part_of_it(self, merging, tmp_path):
        other = make_tiny_model(tmp_path / "models/other", seed=3)
        recipe = {**RECIPE, "tokenizer_source": "models/other"}
        step = step_of(merging(systems={"merged": {"merge": recipe}}))
        assert set(step.models) == {f"models/{name}" for name in ("base", "one", "two", "other")}
        assert "models/" not in json.dumps(step.description.as_json())
        shutil.copyfile(tmp_path / "models/one/model.safetensors", other / "model.safetensors")
        assert (
            step_of(merging(systems={"merged": {"merge": recipe}})).description.address
            == step.description.address
        )
        template = other / "chat_template.jinja"
        template.write_text(template.read_text() + "{# changed #}")
        assert (
            step_of(merging(systems={"merged": {"merge": recipe}})).description.address
            != step.description.address
        )


class TestRun:
    def test_ends_with_one_checkpoint_for_both_systems_and_runs_once(self, merging, store, tmp_path):
        outcome = run(merging(), store)
        assert outcome.results.failed == []
        (manifest,) = merges(store)
        assert manifest.step == "merge merged"
        checkpoint = store / "objects" / manifest.address / "checkpoint"
        made = load_file(checkpoint / "model.safetensors")
        base, one, two = (
            load_file(tmp_path / f"models/{n}/model.safetensors") for n in ("base", "one", "two")
        )
        name = "model.layers.0.self_attn.q_proj.weight"
        expected = base[name] + 0.5 * (one[name] - base[name]) + 0.5 * (two[name] - base[name])
        assert torch.allclose(made[name], expected, atol=1e-6)
        identities = {system.name: system.identity.split("@")[1] for system in outcome.results.systems}
        assert len(set(identities.values())) == 3
        assert Store(store).verify() == []
        before = state(store)
        again = run(merging(), store)
        assert state(store) == before
        assert again.results == outcome.results

    def test_the_report_says_what_was_merged_and_not_where_the_store_lies(self, merging, store):
        results = run(merging(), store).results
        merged = next(system for system in results.systems if system.name == "merged")
        step = step_of(merging())
        assert merged.model == "merge of models/base, models/one, models/two (task_arithmetic)"
        for name, identity in step.models.items():
            assert f"{name}: sha256 {identity[:12]}" in str(merged.model_source)
        assert merged.spec["merge"]["models"] == [
            {"model": n, "parameters": {}} for n in list(step.models)[1:]
        ]
        assert "model" not in merged.spec
        written = [store / "results.json", store / "report.html", store / "transcripts.jsonl"]
        assert not any(str(store) in path.read_text() for path in written)
        log = next((store / "logs/tiny/merged").glob("*.eval"))
        from inspect_ai.log import read_eval_log

        assert "objects/" not in read_eval_log(str(log)).model_dump_json()

    @pytest.mark.slow
    def test_gc_keeps_it_as_long_as_the_study_stands_on_it(self, merging, store):
        run(merging(), store)
        assert Store(store).gc() == []
        assert len(merges(store)) == 1
        run(merging(systems={"base": {"model": "models/base"}}), store)
        Store(store).gc()
        assert merges(store) == []

    @pytest.mark.slow
    def test_the_plan_lists_it_before_the_steps_that_need_it(self, merging, store):
        plan = plan_study(merging(), store, console=QUIET)
        first = plan.steps[0]
        assert (first.name, first.kind, first.done) == ("merge merged", "merge", True)
        assert first.seconds is not None and first.bytes_written and first.bytes_written > 10_000
        needing = {step.system for step in plan.steps if "merge merged" in step.after}
        assert needing == {"merged", "merged_careful"}
        assert [step.name for step in plan.steps if step.kind == "merge"] == ["merge merged"]
        shown = StringIO()
        print_plan(plan, Console(file=shown, width=200))
        assert "writes" in shown.getvalue() and "merge merged" in shown.getvalue()
        assert run(merging(), store).results.failed == [] and len(merges(store)) == 1


class TestFailures:
    @pytest.mark.slow
    def test_a_merge_that_fails_is_a_failed_step_and_the_others_go_on(self, merging, store, tmp_path):
        file = tmp_path / "models/two/model.safetensors"
        tensors = load_file(file)
        tensors["model.layers.0.self_attn.q_proj.weight"].fill_(float("inf"))
        save_file(tensors, file, metadata={"format": "pt"})
        recipe = {"merge_method": "iso_c", **{k: RECIPE[k] for k in ("base_model", "models")}}
        systems = {
            "base": {"model": "models/base"},
            "merged": {"merge": recipe},
            "merged_careful": {"merge": recipe, "system_prompt": "Be careful."},
            "absent": {"merge": {**RECIPE, "base_model": "models/none"}},
        }
        results = run(merging(systems=systems), store).results
        failed = {step.step: step for step in results.failed}
        assert set(failed) == {"merge merged", "merge absent"}
        assert failed["merge merged"].systems == ["merged", "merged_careful"]
        assert "MergeError" in failed["merge merged"].error and failed["merge merged"].fix
        assert failed["merge absent"].systems == ["absent"] and "models/none" in failed["merge absent"].error
        assert [system.name for system in results.systems] == ["base"]
        assert next(leg for leg in results.legs if leg.leg == "helpful").estimate.value is not None
        plan = plan_study(merging(systems=systems), store, console=QUIET)
        step = plan.steps[0]
        assert (step.name, step.done) == ("merge merged", False)
        assert step.seconds is not None and step.bytes_written
        assert merges(store) == [] and not list((store / "objects").glob(".draft-*"))

    def test_a_parameter_that_is_wrong_names_study_system_and_key(self, merging, store):
        recipe = {**RECIPE, "merge_method": "ties", "parameters": {"weight": 0.5, "density": 2}}
        study = merging(systems={"merged": {"merge": recipe}})
        with pytest.raises(ConfigError, match=r"study\.yaml: systems\.merged\.merge: .*density"):
            run(study, store)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"engine": "llamacpp"}, "does not run what a study makes"),
            ({"decode": {"method": "best_of_m"}}, "best_of_m"),
            ({"system_promt": "x"}, "did you mean 'system_prompt'"),
        ],
    )
    def test_mistakes_in_the_system_are_told_before_the_merge(self, merging, store, changes, message):
        study = merging(systems={"merged": {"merge": RECIPE, **changes}})
        with pytest.raises(ConfigError, match=message):
            run(study, store)
        assert not (store / "objects").exists()


def drafts(store: Path) -> Iterable[Path]:
    return (store / "objects").glob(".draft-*/.checkpoint.merging/*")


@pytest.mark.slow
def test_killed_during_the_merge_the_same_command_goes_on(merging, store, tmp_path):
    for seed, name in enumerate(("base", "one", "two")):  # large enough to be met at work
        make_tiny_model(
            tmp_path / "models" / name,
            seed=seed,
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=6,
        )
    recipe = {**RECIPE, "merge_method": "ties", "parameters": {"weight": 0.5, "density": 0.3}}
    study = merging(systems={"merged": {"merge": recipe}})
    command = [sys.executable, "-m", "trivet", "study", "run", str(study), "--store", str(store), "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(drafts(store)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert merges(store) == [] and list((store / "objects").glob(".draft-*"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert len(merges(store)) == 1 and not list((store / "objects").glob(".draft-*"))
    assert Store(store).verify() == []
    whole = run(study, tmp_path / "whole").results
    killed = json.loads((store / "results.json").read_text())
    assert [system.identity for system in whole.systems] == [s["identity"] for s in killed["systems"]]
