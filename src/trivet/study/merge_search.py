"""A search for the weights of a merge, by what a study measures: the driver behind ``trivet merge search``.

One model is loaded once. Every candidate is merged tensor by tensor into its parameters and is never
written to disk; its answers and scores are steps of a study, found by the identity of the merged weights, so
that a search that was killed goes on where it was.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from trivet._files import canonical_json, sha256_text
from trivet.errors import ConfigError, StoreError, StudyError, TrivetError
from trivet.merge.candidates import Candidates, open_candidates
from trivet.merge.executor import Merge
from trivet.merge.groups import merged_tensors
from trivet.models.names import resolve_model
from trivet.models.torch_engine import TorchEngine
from trivet.study.cell import Cell
from trivet.study.costs import costs_of
from trivet.study.evaluations import resolve_evaluation
from trivet.study.generate import failure_of
from trivet.study.legs import resolve_legs
from trivet.study.measurements import Measurement
from trivet.study.merge_proposals import next_of_tpe, next_on_grid, require_optuna
from trivet.study.merge_search_spec import REFERENCE, SearchSpec, check_grid, load_search
from trivet.study.merge_trials import (
    SearchResults,
    Trial,
    axes_of,
    conclude,
    legs_of,
    read_trials,
    write_recipes,
)
from trivet.study.opening import Study, check_legs, evaluation_judges
from trivet.study.plan import full_choice
from trivet.study.progress import StudyProgress
from trivet.study.read_logs import read_measurements
from trivet.study.results import LEGS
from trivet.study.run import SCORED, Runner
from trivet.study.store import Store
from trivet.study.systems import Prepared
from trivet.systems import System
from trivet.systems.spec import SystemSpec

FOLDER = "searches"


def search_merge(path: Path, store: Path, *, console: Console, show: bool = True) -> SearchResults:
    """Run the trials of a search file that are not there yet; ends with the Pareto set.

    Everything is kept in ``STORE/searches/NAME.json``, and the recipes of the Pareto set, which ``trivet
    merge`` takes as they are, in ``STORE/searches/NAME/``.

    Raises:
        ConfigError: the search file or the recipe is wrong, or Optuna is missing.
        ModelError, MergeError: the models cannot be opened or do not fit together.
        StoreError: another driver is at work, or the disk is full.
        StudyError: the reference cannot be measured, or the store holds another search of this name.
        KeyboardInterrupt: Ctrl-C; finished answers are kept.
    """
    spec = load_search(path)
    if spec.over.weight.trials is not None:
        require_optuna()
    recipe, folder, where = spec.read_recipe(path.absolute().parent, str(path))
    reference = spec.reference_model(recipe, str(path))
    candidates = open_candidates(recipe, folder=folder, where=where)
    try:
        check_grid(spec, len(candidates.experts), str(path))
        if spec.over.weight.trials is not None and recipe.method == "rewarded_soup":
            raise ConfigError(
                "over.weight.trials: TPE's weights do not sum to 1, as those of rewarded_soup must",
                where=str(path),
                hint="search a grid, or use merge_method: linear, which divides by their sum",
            )
        study = _open_study(spec, path)
        opened = Store(store)
        with opened.driver(), StudyProgress(console, 1, show=show) as progress:
            runner = Runner(study.spec, study.base, opened, progress)
            return _Search(spec, candidates, candidates.alone(reference), study, runner).run()
    finally:
        candidates.close()


def _open_study(spec: SearchSpec, path: Path) -> Study:
    """The evaluations and their judges; the systems come one by one."""
    study = Study(spec=spec.study(path), base=path.absolute().parent)
    for entry in study.spec.evaluations:
        study.evaluations.append(resolve_evaluation(entry, base=study.base, epochs=spec.epochs))
        study.judges[entry.label] = evaluation_judges(entry, study.base)
    check_legs(study, where=str(path))
    components = {e.label: sorted({str(row["component"]) for row in e.rows}) for e in study.evaluations}
    if not set(resolve_legs(components, study.spec.evaluations)) & set(LEGS):
        raise ConfigError(
            f"evaluations: none of them measures {', '.join(LEGS)}",
            where=str(path),
            hint="add one that ships, such as helpful, or give one of yours a `leg`",
        )
    return study


@dataclass
class _Measured:
    """A trial under way: what is in the running model, and its cells."""

    prepared: Prepared
    cells: list[Cell]
    merge_seconds: float


class _Search:
    def __init__(
        self, spec: SearchSpec, candidates: Candidates, reference: Merge, study: Study, runner: Runner
    ) -> None:
        self._spec, self._candidates, self._study, self._runner = spec, candidates, study, runner
        self._reference = reference
        self._prompts = full_choice(study.spec, study.evaluations).prompts
        self._path = runner.store.path / FOLDER / f"{study.spec.name}.json"
        self._results = self._open()
        self._rows: list[Measurement] = []

    def run(self) -> SearchResults:
        failed = [trial for trial in self._results.trials if trial.failure]
        reference = self._results.trial(REFERENCE)
        if reference is None or failed or self._next(axes_of(reference)) is not None:
            with self._engine() as engine:
                axes = axes_of(self._measure_reference(engine))
                for trial in failed:  # with the weights they had: what mended them may be outside of us
                    self._try(engine, trial.name, tuple(trial.weights))
                while (weights := self._next(axes)) is not None:
                    self._try(engine, f"trial-{len(self._results.trials)}", weights)
        return self._finish()

    def _open(self) -> SearchResults:
        """What was kept of this search, or an empty one.

        Raises:
            StudyError: what was kept was measured otherwise.
        """
        merge, recipe = self._candidates.merge, self._candidates.merge.recipe
        stand_in = {"": Prepared(name="", identity="")}
        measuring = [cell.scoring.address for cell in self._cells(stand_in)]
        count = len(self._candidates.experts)
        equal = self._candidates.identity(self._candidates.with_weights([1 / count] * count))
        content = [measuring, equal, self._candidates.identity(self._reference)]
        fresh = SearchResults(
            name=self._study.spec.name,
            method=recipe.merge_method,
            experts=list(self._candidates.experts),
            reference=self._reference.recipe.model_names()[0],
            conditions=sha256_text(canonical_json(content)),
            prompts=dict(self._prompts),
            notes=list(merge.layout.notes),
        )
        kept = read_trials(self._path)
        if kept is None:
            return fresh
        if kept.conditions != fresh.conditions:
            raise self._other_search()
        return fresh.model_copy(update={"trials": kept.trials})

    def _other_search(self) -> StudyError:
        return StudyError(
            "holds trials of a search with other models, prompts or settings; they cannot be compared",
            where=str(self._path),
            hint="give this search another `name`",
        )

    def _cells(self, systems: dict[str, Prepared]) -> list[Cell]:
        self._study.systems = systems
        return self._study.cells(self._prompts, self._spec.max_tokens)

    @contextmanager
    def _engine(self) -> Iterator[TorchEngine]:
        """An engine of our own: its weights change, so nobody else may have it."""
        engine = TorchEngine(resolve_model(str(self._candidates.model_folder)), replaceable=True)
        try:
            yield engine
        finally:
            engine.close()

    def _next(self, axes: list[str]) -> tuple[float, ...] | None:
        """The weights to try next, as far as the search goes."""
        over, experts = self._spec.over.weight, len(self._candidates.experts)
        trials = [trial for trial in self._results.trials if trial.name != REFERENCE]
        if over.grid is not None:
            return next_on_grid(over.grid, experts, {tuple(trial.weights) for trial in trials})
        if over.trials is None or len(trials) >= over.trials:
            return None
        known = [(tuple(trial.weights), trial.point(axes)) for trial in trials]
        return next_of_tpe(over.low, over.high, experts, self._spec.seed, known)

    def _measure_reference(self, engine: TorchEngine) -> Trial:
        """The reference alone; what is finished of it is only read."""
        kept, started = self._results.trial(REFERENCE), time.perf_counter()
        measured = self._load(engine, REFERENCE, self._reference)
        if kept is not None and kept.system != measured.prepared.identity:
            raise self._other_search()  # another type of the weights, say, on another machine
        self._answer(measured)
        self._rows = self._measurements(measured)
        trial = self._trial(REFERENCE, (), self._reference, measured, self._rows, started)
        if not axes_of(trial):
            reasons = "; ".join(f"{leg.leg}: {leg.estimate.reason}" for leg in trial.legs)
            raise StudyError(
                f"no leg of the reference could be scored: {reasons}", where=self._study.spec.name
            )
        if kept is None:
            self._keep(trial)
        return kept or trial

    def _try(self, engine: TorchEngine, name: str, weights: tuple[float, ...]) -> None:
        """Measure one candidate and keep what came of it."""
        started = time.perf_counter()
        shown = ", ".join(f"{weight:.3g}" for weight in weights)
        self._runner.progress.say(f"{name}: weights {shown}")
        merge = self._candidates.with_weights(weights)
        try:
            measured = self._load(engine, name, merge)
            self._answer(measured)
            trial = self._trial(name, weights, merge, measured, self._measurements(measured), started)
        except StoreError:
            raise
        except TrivetError as error:  # one candidate that cannot be merged or measured; the others go on
            identity = self._candidates.identity(merge)
            trial = Trial(
                name=name,
                weights=list(weights),
                identity=identity,
                address=self._address(identity),
                seconds=round(time.perf_counter() - started, 3),
                failure=failure_of(error).error,
            )
            self._runner.progress.say(f"failed: {name}: {trial.failure}")
        self._keep(trial)

    def _load(self, engine: TorchEngine, name: str, merge: Merge) -> _Measured:
        started = time.perf_counter()
        engine.load_weights(merged_tensors(merge), self._candidates.identity(merge))
        seconds = time.perf_counter() - started
        spec = SystemSpec.model_validate({"model": str(self._candidates.model_folder), "name": name})
        system = System(spec, base=self._study.base, engine=engine).open()
        prepared = Prepared(name=name, identity=system.hash12, system=system, facts=system.describe())
        return _Measured(prepared, self._cells({name: prepared}), seconds)

    def _answer(self, measured: _Measured) -> None:
        """Generate and score what is not finished.

        Raises:
            StudyError: a step failed.
        """
        self._runner.progress.expect(2 * len(measured.cells))
        self._runner.generate(measured.cells)
        self._runner.score(measured.cells)
        for cell in measured.cells:
            if cell.failure is not None:
                raise StudyError(f"{cell.failed_step}: {cell.failure.error}", hint=cell.failure.fix)

    def _measurements(self, measured: _Measured) -> list[Measurement]:
        name, store = measured.prepared.name, self._runner.store
        rows: list[Measurement] = []
        for cell in measured.cells:
            log = store.folder(cell.scoring.address) / SCORED
            rows += read_measurements(log, system=name, entry=cell.evaluation.entry)
            store.link_log(log, f"{self._study.spec.name}/{name}/{cell.evaluation.label}.eval")
        return rows

    def _trial(
        self,
        name: str,
        weights: tuple[float, ...],
        merge: Merge,
        measured: _Measured,
        rows: list[Measurement],
        started: float,
    ) -> Trial:
        identity = self._candidates.identity(merge)
        cells = measured.cells
        return Trial(
            name=name,
            weights=list(weights),
            identity=identity,
            address=self._address(identity),
            system=measured.prepared.identity,
            legs=legs_of(name, rows, self._rows, self._study.spec.evaluations),
            costs=costs_of(rows, {}, {})[0],
            merge_seconds=round(measured.merge_seconds, 3),
            seconds=round(time.perf_counter() - started, 3),
            addresses=sorted({a for cell in cells for a in (cell.generation.address, cell.scoring.address)}),
            answers=sorted({cell.journal.address for cell in cells}),
        )

    def _address(self, identity: str) -> str:
        return sha256_text(canonical_json([self._results.conditions, identity]))

    def _keep(self, trial: Trial) -> None:
        self._results = self._results.with_trial(trial)
        self._results.write(self._path)

    def _finish(self) -> SearchResults:
        """The Pareto set, with its recipes beside the search's file."""
        recipes = {
            trial.name: self._candidates.recipe_text(trial.weights)
            for trial in self._results.trials
            if trial.name != REFERENCE
        }
        self._results = conclude(self._results, REFERENCE, recipes, self._runner.warnings)
        self._results.write(self._path)
        write_recipes(self._results, self._path.with_suffix(""))
        return self._results
