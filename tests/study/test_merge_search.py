"""Searches for the weights of a merge, on tiny random models."""

import json
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console
from safetensors.torch import load_file, save_file
from tests.conftest import make_tiny_model
from tests.study.conftest import TASKS

from trivet.cli import root
from trivet.errors import ConfigError, MergeError, StudyError
from trivet.merge import merge_checkpoints
from trivet.merge.recipe import load_recipe
from trivet.models.torch_engine import TorchEngine
from trivet.study import merge_search
from trivet.study.merge_proposals import next_of_tpe, simplex_grid
from trivet.study.merge_search import search_merge
from trivet.study.merge_trials import OPTIMISTIC, SearchResults, Trial, pareto_set
from trivet.study.read_logs import read_measurements
from trivet.study.results import Estimate, LegResult
from trivet.study.spec import EvaluationEntry
from trivet.study.store import Store
from trivet.systems import System

VOWELS = {"name": "vowels", "task": "tasks.py@parts", "score": "vowels", "leg": "helpful"}
LENGTH = {
    "name": "length",
    "task": "tasks.py@parts",
    "score": "length",
    "leg": "harmless",
    "higher_is_better": False,
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base`` and the experts ``one``, ``two``, ``three``, mixtures of it and other models."""
    root = tmp_path_factory.mktemp("experts")
    base = load_file(make_tiny_model(root / "base") / "model.safetensors")
    for seed, name in enumerate(("one", "two", "three"), 1):
        file = make_tiny_model(root / name, seed=seed) / "model.safetensors"
        mixed = {key: 0.4 * value + 0.6 * base[key] for key, value in load_file(file).items()}
        save_file(mixed, file, metadata={"format": "pt"})
    return root


@pytest.fixture
def write_search(tmp_path: Path, models: Path) -> Callable[..., Path]:
    """Writes a search over two experts, and its recipe; arguments replace keys, ``...`` removes one."""
    (tmp_path / "tasks.py").write_text(TASKS)

    def write(changed: dict[str, Any] | None = None, /, **changes: Any) -> Path:
        content = {
            "merge_method": "task_arithmetic",
            "base_model": str(models / "base"),
            "models": [{"model": str(models / name)} for name in ("one", "two")],
        }
        content.update(changed or {})
        (tmp_path / "recipe.yaml").write_text(
            yaml.safe_dump({key: value for key, value in content.items() if value is not ...})
        )
        search: dict[str, Any] = {
            "recipe": "recipe.yaml",
            "over": {"weight": {"grid": 0.5}},
            "evaluations": [VOWELS, LENGTH],
            "max_tokens": 8,
            "seed": 1,
        }
        search.update(changes)
        path = tmp_path / "search.yaml"
        path.write_text(yaml.safe_dump(search, sort_keys=False))
        return path

    return write


def run(search: Path) -> SearchResults:
    return search_merge(search, search.parent / "store", console=Console(quiet=True), show=False)


def journal_lines(store: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (store / "answers").glob("*.jsonl"))


@pytest.mark.parametrize(("step", "experts"), [(0.5, 2), (0.25, 3), (0.1, 3), (0.2, 5), (1.0, 4), (0.05, 2)])
def test_the_grid_is_the_simplex(step, experts):
    points = list(simplex_grid(step, experts))
    n = round(1 / step)
    assert len(points) == len(set(points)) == comb(n + experts - 1, experts - 1)
    for weights in points:
        assert len(weights) == experts and min(weights) >= 0
        assert sum(weights) == pytest.approx(1)
        assert all((weight * n) % 1 in (pytest.approx(0), pytest.approx(1)) for weight in weights)


@pytest.mark.slow
def test_a_candidate_answers_as_the_same_merge_on_disk(write_search, tmp_path):
    path = write_search(
        {"merge_method": "ties", "parameters": {"density": 0.5}}, evaluations=["tasks.py@letters"]
    )
    path.write_text(
        path.read_text().replace("- tasks.py@letters", "- {task: tasks.py@letters, leg: helpful}")
    )
    results = run(path)
    store = Store(tmp_path / "store")
    texts = {}
    for trial in results.trials[1:]:
        assert trial.failure is None
        (tmp_path / "candidate.yaml").write_text(_recipe(tmp_path / "recipe.yaml", trial.weights))
        made = merge_checkpoints(tmp_path / "candidate.yaml", tmp_path / trial.name)
        system = System.load({"model": str(made.folder)})
        from inspect_ai.log import read_eval_log

        log = store.logs / "search" / trial.name / "letters.eval"
        samples = {sample.input: sample.output.completion for sample in read_eval_log(str(log)).samples}
        assert len(samples) == 12
        expected = {text: system.answer_sync(text, max_tokens=8).text for text in samples}
        assert samples == expected
        texts[trial.name] = tuple(expected.values())
    assert len(set(texts.values())) == 3
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def _recipe(recipe: Path, weights: list[float]) -> str:
    content = yaml.safe_load(recipe.read_text())
    for model, weight in zip(content["models"], weights, strict=True):
        model["parameters"] = {"weight": weight}
    return yaml.safe_dump(content)


@pytest.mark.slow
def test_every_trial_is_kept_with_legs_costs_and_address(write_search, tmp_path):
    results = run(write_search())
    kept = json.loads((tmp_path / "store/searches/search.json").read_text())
    assert kept == results.model_dump(mode="json")
    assert [trial.weights for trial in results.trials] == [[], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    assert len({trial.address for trial in results.trials}) == 4
    for trial in results.trials:
        assert trial.value("helpful") is not None and trial.value("harmless") is not None
        assert trial.costs is not None and trial.costs.n_answers == 12
        assert trial.costs.forward_tokens and trial.costs.forward_tokens > 0
    assert results.axes == ["helpful", "harmless"]
    assert OPTIMISTIC in results.notes
    assert results.pareto == pareto_set(results.trials, results.axes)


@pytest.mark.slow
def test_the_legs_are_those_of_the_scored_answers(write_search, tmp_path):
    results = run(write_search())
    entry = EvaluationEntry.model_validate(VOWELS)
    for trial in results.trials:
        log = tmp_path / "store/logs/search" / trial.name / "vowels.eval"
        values = [row.value for row in read_measurements(log, system=trial.name, entry=entry)]
        assert trial.value("helpful") == pytest.approx(sum(values) / len(values))


@pytest.mark.slow
def test_winning_recipes_are_taken_by_merge_from_anywhere(write_search, tmp_path, models, monkeypatch):
    experts = [{"model": f"experts/{name}"} for name in ("one", "two")]
    (tmp_path / "experts").symlink_to(models)
    results = run(write_search({"base_model": "experts/base", "models": experts}))
    winners = [name for name in results.pareto if name != "reference"]
    folder = tmp_path / "store/searches/search"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == sorted(winners) and winners
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for name in winners:
        weights = [model.parameters["weight"] for model in load_recipe(folder / f"{name}.yaml").models]
        assert weights == results.trial(name).weights
        assert merge_checkpoints(folder / f"{name}.yaml", elsewhere / name).folder.is_dir()
        assert OPTIMISTIC in (folder / f"{name}.yaml").read_text()


@pytest.mark.slow
class TestResume:
    def test_a_finished_search_loads_and_answers_nothing(self, write_search, tmp_path, monkeypatch):
        first = run(write_search())
        lines = journal_lines(tmp_path / "store")
        monkeypatch.setattr(merge_search, "TorchEngine", None)
        assert run(write_search()) == first
        assert journal_lines(tmp_path / "store") == lines == 4 * 12

    def test_a_killed_search_goes_on_with_the_trial_under_way(self, write_search, tmp_path, monkeypatch):
        real, calls = TorchEngine.load_weights, []

        def killed(self, tensors, identity):
            calls.append(identity)
            if len(calls) == 3:
                raise KeyboardInterrupt
            real(self, tensors, identity)

        monkeypatch.setattr(TorchEngine, "load_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            run(write_search())
        kept = json.loads((tmp_path / "store/searches/search.json").read_text())["trials"]
        assert [trial["name"] for trial in kept] == ["reference", "trial-1"]
        loaded = []
        monkeypatch.setattr(
            TorchEngine, "load_weights", lambda self, t, i: (loaded.append(i), real(self, t, i))[1]
        )
        results = run(write_search())
        assert [trial.model_dump(mode="json") for trial in results.trials[:2]] == kept
        assert len(results.trials) == 4 and len(loaded) == 3  # the reference, and the two that were missing
        assert journal_lines(tmp_path / "store") == 4 * 12

    def test_a_finer_grid_keeps_the_trials_of_the_coarser(self, write_search, tmp_path):
        first = run(write_search())
        second = run(write_search(over={"weight": {"grid": 0.25}}))
        assert second.trials[:4] == first.trials and len(second.trials) == 6
        assert journal_lines(tmp_path / "store") == 6 * 12

    @pytest.mark.parametrize(
        "change", [{"seed": 2, "limit": 5}, {"max_tokens": 9}, {"evaluations": [VOWELS]}]
    )
    def test_another_search_of_the_same_name_is_refused(self, write_search, change):
        run(write_search())
        with pytest.raises(StudyError, match="cannot be compared") as raised:
            run(write_search(**change))
        assert "name" in str(raised.value.hint)
        run(write_search(name="other", **change))

    def test_gc_keeps_what_trials_stand_on(self, write_search, tmp_path):
        run(write_search())
        assert Store(tmp_path / "store").gc(dry_run=True) == []
        (tmp_path / "store/searches/search.json").unlink()
        assert len(Store(tmp_path / "store").gc(dry_run=True)) >= 16

    def test_a_candidate_that_cannot_be_merged_is_kept_and_tried_again(self, write_search, monkeypatch):
        real = merge_search.merged_tensors

        def broken(merge):
            weights = [model.parameters.get("weight") for model in merge.recipe.models]
            if weights == [0.5, 0.5]:
                raise MergeError("the disk has a bad day")
            return real(merge)

        monkeypatch.setattr(merge_search, "merged_tensors", broken)
        results = run(write_search())
        assert results.trial("trial-2").failure == "MergeError: the disk has a bad day"
        assert results.trial("trial-3").failure is None and "trial-2" not in results.pareto
        monkeypatch.setattr(merge_search, "merged_tensors", real)
        mended = run(write_search())
        assert mended.trial("trial-2").failure is None and len(mended.trials) == 4


def trial(name: str, **legs: float | None) -> Trial:
    rows = [
        LegResult(system=name, leg=leg, estimate=Estimate(value=value))  # type: ignore[arg-type]
        for leg, value in legs.items()
    ]
    return Trial(name=name, weights=[], identity="", address="", legs=rows)


def test_the_pareto_set_of_a_worked_example():
    trials = [
        trial("reference", helpful=0.5, honest=0.5, harmless=0.5),
        trial("better", helpful=0.6, honest=0.5, harmless=0.5),
        trial("same", helpful=0.6, honest=0.5, harmless=0.5),
        trial("other", helpful=0.2, honest=0.9, harmless=0.4),
        trial("worse", helpful=0.2, honest=0.8, harmless=0.4),
        trial("unscored", helpful=0.9, honest=None, harmless=0.9),
    ]
    axes = ("helpful", "honest", "harmless")
    assert pareto_set(trials, axes) == ["better", "same", "other"]
    assert pareto_set(trials, ("helpful", "harmless")) == ["unscored"]
    assert pareto_set(trials[-1:], axes) == []


class TestTPE:
    @pytest.mark.slow
    def test_four_trials_are_the_same_twice_and_after_an_interruption(self, write_search, tmp_path):
        pytest.importorskip("optuna")
        over = {"weight": {"trials": 4, "low": 0.0, "high": 0.8}}
        whole = run(write_search(over=over, name="whole"))
        again = run(write_search(over=over, name="again"))
        run(write_search(over={"weight": {**over["weight"], "trials": 2}}, name="parts"))
        parts = run(write_search(over=over, name="parts"))
        weights = [trial.weights for trial in whole.trials[1:]]
        assert len(weights) == 4 and len({tuple(w) for w in weights}) == 4
        assert all(0 <= weight <= 0.8 for pair in weights for weight in pair)
        for other in (again, parts):
            assert [trial.weights for trial in other.trials[1:]] == weights
            assert [trial.legs for trial in other.trials[2:]] == [trial.legs for trial in whole.trials[2:]]
        assert journal_lines(tmp_path / "store") == 5 * 12  # equal candidates share their answers

    def test_it_learns_where_the_objectives_are_large(self):
        pytest.importorskip("optuna")
        known: list[Any] = []
        for _ in range(40):
            weights = next_of_tpe(0.0, 1.0, 2, 3, known)
            known.append((weights, (-abs(weights[0] - 0.8), -abs(weights[1] - 0.2))))
        late = [weights for weights, _ in known[25:]]
        assert sum(abs(a - 0.8) + abs(b - 0.2) for a, b in late) / len(late) < 0.6  # 0.68 at random
        assert next_of_tpe(0.0, 1.0, 2, 3, known) == next_of_tpe(0.0, 1.0, 2, 3, known)
        assert next_of_tpe(0.0, 1.0, 2, 3, [*known, ((5.0, 0.0), None), ((0.5, 0.5), None)])

    def test_without_optuna_there_is_one_clear_message(self, write_search, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "optuna", None)
        with pytest.raises(ConfigError, match="optuna") as raised:
            run(write_search(over={"weight": {"trials": 2}}))
        assert "trivet[search]" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("recipe", "search", "message"),
    [
        ({}, {"over": {"weight": {"grid": 0.3}}}, "must divide 1"),
        ({}, {"over": {"weight": {"grid": 0.5, "low": 0.1}}}, "belong to `trials`"),
        ({}, {"over": {"weight": {}}}, "either `grid`"),
        ({}, {"over": {"weight": {"trials": 3, "low": 1.0, "high": 1.0}}}, "smaller than"),
        ({}, {"over": {"weight": {"grid": 0.00005}}}, "20,001 points"),
        ({}, {"over": {"wieght": {"grid": 0.5}}}, "did you mean 'weight'"),
        ({}, {"reference": "bsae"}, "did you mean 'base'"),
        ({}, {"evaluations": ["helpfull"]}, "did you mean 'helpful'"),
        ({}, {"evaluations": ["tasks.py@letters"]}, "none of them measures"),
        ({}, {"name": "a/b"}, "name"),
        ({}, {"recipe": "nowhere.yaml"}, "no such file"),
        ({"merge_method": "model_stock"}, {}, "takes no weight"),
        ({"merge_method": "linear", "base_model": ...}, {}, "no model 'base'"),
        ({"chat_template": "chatml"}, {}, "chat template of the base"),
        ({"tokenizer_source": "union"}, {}, "tokenizer and the chat template"),
    ],
)
def test_a_mistake_is_one_message_and_starts_nothing(write_search, tmp_path, recipe, search, message):
    path = write_search(recipe, **search)
    failed = CliRunner().invoke(root, ["merge", "search", str(path), "--store", str(tmp_path / "store")])
    assert failed.exit_code == 2 and message in failed.output, failed.output
    assert "Traceback" not in failed.output
    assert not list((tmp_path / "store").glob("answers/*"))


def test_one_expert_or_slices_cannot_be_searched(write_search, models):
    one = [{"model": str(models / "one"), "parameters": {"weight": 1}}]
    with pytest.raises(ConfigError, match="at least two"):
        run(write_search({"models": one}))
    part = {"model": str(models / "one"), "layer_range": [0, 2], "parameters": {"weight": 1}}
    with pytest.raises(ConfigError, match="slices"):
        run(write_search({"models": ..., "slices": [{"sources": [part]}]}))


@pytest.mark.parametrize("method", ["linear", "rewarded_soup"])
@pytest.mark.slow
def test_the_reference_may_be_an_expert_where_the_method_has_no_base(write_search, models, method):
    path = write_search(
        {"merge_method": method, "base_model": ..., "tokenizer_source": ...},
        reference=str(models / "two"),
    )
    results = run(path)
    assert results.reference == str(models / "two")
    alone = results.trial("trial-1")
    assert alone is not None and alone.weights == [0.0, 1.0]
    assert [leg.estimate for leg in alone.legs] == [leg.estimate for leg in results.trials[0].legs]


@pytest.mark.slow
def test_the_command_prints_the_table_and_json(write_search, tmp_path):
    arguments = ["merge", "search", str(write_search()), "--store", str(tmp_path / "store")]
    shown = CliRunner().invoke(root, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for text in ("reference", "trial-3", "0.5 0.5", "Pareto set over helpful, harmless", "trivet merge"):
        assert text in shown.output
    as_json = CliRunner().invoke(root, [*arguments, "--json"])
    assert [entry["name"] for entry in json.loads(as_json.stdout)["trials"]] == [
        "reference",
        "trial-1",
        "trial-2",
        "trial-3",
    ]
