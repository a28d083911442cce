"""The trials of a search over the weights of a merge: what is kept of each, and which of them are best.

All of a search lies in one JSON file, written anew after every trial, atomically.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from trivet._files import write_json, write_text
from trivet.errors import StoreError
from trivet.statistics.pareto import on_front
from trivet.study.leg_values import leg_result
from trivet.study.legs import resolve_legs
from trivet.study.measurements import Measurement
from trivet.study.results import LEGS, Costs, Count, LegResult, Number, Result
from trivet.study.scores import score_tables
from trivet.study.spec import EvaluationEntry

OPTIMISTIC = (
    "these prompts chose the weights, so the winners' scores on them are too good: measure a winner on "
    "prompts that the search did not ask before you believe any number of it"
)
"""What selects never measures."""


class Trial(Result):
    """One candidate, or the reference alone (without ``weights``).

    ``identity`` is the SHA-256 of what its weights are made from, ``address`` that of ``identity`` and of
    all that measured it, ``system`` the digest of all that determines its answers. With a ``failure`` it has
    no legs.
    """

    name: str
    weights: list[Number]
    identity: str
    address: str
    system: str | None = None
    legs: list[LegResult] = Field(default_factory=list)
    costs: Costs | None = None
    merge_seconds: Number = Field(default=0.0, description="merging into the running model")
    seconds: Number = Field(default=0.0, description="merging, answers that were not there yet, and scores")
    addresses: list[str] = Field(default_factory=list, description="its objects in the store")
    answers: list[str] = Field(default_factory=list, description="its journals in the store")
    failure: str | None = None

    def value(self, leg: str) -> float | None:
        """The leg's estimate, where it could be scored."""
        return next((entry.estimate.value for entry in self.legs if entry.leg == leg), None)

    def point(self, axes: Sequence[str]) -> tuple[float, ...] | None:
        """Its place on ``axes``; ``None`` where one of them could not be scored."""
        values = [self.value(axis) for axis in axes]
        return None if None in values or not values else tuple(v for v in values if v is not None)


class SearchResults(Result):
    """A search: every trial, and the Pareto set among them.

    ``experts`` are the models that a trial's weights belong to, in order. ``conditions`` is the SHA-256 of
    all that measures a trial. ``pareto`` names trials over ``axes``; ``recipes`` holds their recipes as YAML.
    """

    format: Literal[1] = 1
    name: str
    method: str
    experts: list[str]
    reference: str
    conditions: str
    prompts: dict[str, Count]
    trials: list[Trial] = Field(default_factory=list)
    axes: list[str] = Field(default_factory=list)
    pareto: list[str] = Field(default_factory=list)
    recipes: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    def trial(self, name: str) -> Trial | None:
        """The trial of that name."""
        return next((trial for trial in self.trials if trial.name == name), None)

    def with_trial(self, trial: Trial) -> "SearchResults":
        """With one more trial, or with a failed one replaced by another attempt."""
        others = list(self.trials)
        place = next((i for i, other in enumerate(others) if other.name == trial.name), len(others))
        return self.model_copy(update={"trials": [*others[:place], trial, *others[place + 1 :]]})

    def write(self, path: Path) -> None:
        """Write it, atomically.

        Raises:
            StoreError: the disk is full or the folder cannot be written.
        """
        write_json(path, self.model_dump(mode="json"))


def read_trials(path: Path) -> SearchResults | None:
    """What an earlier run kept; ``None`` where there was none.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return SearchResults.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        said = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise StoreError(
            f"cannot be read: {said}",
            where=str(path),
            hint="move it away; answers are in the store and are not generated again",
        ) from None


def legs_of(
    name: str,
    rows: Sequence[Measurement],
    reference: Sequence[Measurement],
    entries: Sequence[EvaluationEntry],
) -> list[LegResult]:
    """The legs of one trial.

    Args:
        rows: its measurements, of a system called ``name``.
        reference: those of the reference, the same ones where the trial is the reference.
        entries: the evaluations.
    """
    other = reference[0].system
    names = list(dict.fromkeys([other, name]))
    tables = score_tables([*reference, *(rows if name != other else ())], names)
    components: dict[str, list[str]] = {}
    for evaluation, component in tables:
        components.setdefault(evaluation, []).append(component)
    parts = resolve_legs(components, entries)
    return [leg_result(leg, terms, tables, name, other) for leg, terms in parts.items()]


def axes_of(reference: Trial) -> list[str]:
    """The legs that trials are compared on: those that could be scored for the reference."""
    return [leg for leg in LEGS if reference.value(leg) is not None]


def pareto_set(trials: Sequence[Trial], axes: Sequence[str]) -> list[str]:
    """Names of the trials that no other dominates on ``axes``; see ``statistics.pareto``.

    Larger is better. A trial without a value on one of them is not placed.
    """
    placed = [(trial.name, point) for trial in trials if (point := trial.point(axes)) is not None]
    if not placed:
        return []
    best = on_front(np.array([point for _, point in placed]))
    return [name for (name, _), kept in zip(placed, best, strict=True) if kept]


def conclude(
    results: SearchResults, reference: str, recipes: Mapping[str, str], warnings: Sequence[str]
) -> SearchResults:
    """The search with its Pareto set.

    Args:
        reference: the name of the trial that the others are measured against.
        recipes: by trial, the recipe as YAML; those of the Pareto set are kept.
        warnings: what else has to be said.
    """
    measured = results.trial(reference)
    axes = [] if measured is None else axes_of(measured)
    best = pareto_set(results.trials, axes)
    left_out = [
        f"{leg.leg} is left out: {leg.estimate.reason}"
        for leg in (measured.legs if measured is not None else ())
        if leg.leg in LEGS and leg.leg not in axes
    ]
    update = {
        "axes": axes,
        "pareto": best,
        "recipes": {name: recipes[name] for name in best if name in recipes},
        "notes": [OPTIMISTIC, *left_out, *results.notes, *warnings],
    }
    return results.model_copy(update=update)


def write_recipes(results: SearchResults, folder: Path) -> None:
    """Write the recipes of the Pareto set to ``folder``, each a file that ``trivet merge`` takes as it is.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)  # it may hold those of an earlier, smaller search
    for name, text in results.recipes.items():
        header = f"# {name} of the search {results.name}. Chosen by its scores:\n# {OPTIMISTIC}.\n"
        write_text(folder / f"{name}.yaml", header + text)
