"""The systems of a study, opened one after another: what one needs of another is made before it."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trivet.errors import StoreError, StudyError, TrivetError
from trivet.study.checkpoint_step import (
    CheckpointStep,
    in_order,
    make_checkpoint,
    name_of,
    place_of,
    shared,
    systems_named,
    systems_used,
)
from trivet.study.generate import failure_of
from trivet.study.merge_step import read_merge
from trivet.study.run import Runner
from trivet.study.spec import StudySpec, recipe_of
from trivet.study.systems import prepare, prepare_logs, read_system
from trivet.study.train_step import read_training
from trivet.systems.spec import load_spec

if TYPE_CHECKING:
    from trivet.study.opening import Study


@dataclass(frozen=True)
class Needs:
    """Systems that one names as ``system:NAME``: those that its model is ``made_of``, those that it ``uses``
    as its model or beside it."""

    made_of: frozenset[str]
    uses: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """Both."""
        return self.made_of | self.uses


def needs_of(spec: StudySpec, path: Path) -> dict[str, Needs]:
    """By system, in an order in which they can be made, what each needs.

    Args:
        path: the study's file.

    Raises:
        ConfigError: a system names one that makes nothing, or they name one another in a circle.
    """
    found = {name: _needs(spec, name, path) for name in spec.systems}
    makers = (*spec.merge_systems, *spec.train_systems)
    named = {name: set(needs.all) for name, needs in found.items()}
    return {name: found[name] for name in in_order(named, makers, where=str(path))}


def _needs(spec: StudySpec, name: str, path: Path) -> Needs:
    given, made_of = spec.systems[name], set[str]()
    if name in spec.log_systems:
        return Needs(frozenset(), frozenset())
    if name in spec.merge_systems:
        made_of = systems_named(recipe_of(spec, name, path)[0].model_dump(mode="json"))
    elif name in spec.train_systems and isinstance(given, dict):
        made_of = systems_named(given["train"])
    if isinstance(given, str):
        values = {}
        with suppress(TrivetError):  # a file with a mistake is told in its own step
            values = load_spec(given, base=path.absolute().parent)[0].model_dump(mode="json")
    else:
        values = given
    # Its own checkpoint is there once its model is made.
    makes = name in (*spec.merge_systems, *spec.train_systems)
    return Needs(frozenset(made_of), frozenset(systems_used(values) - ({name} if makes else set())))


def open_systems(study: "Study", path: Path, runner: Runner, *, train: bool) -> TrivetError | None:
    """Open all systems; one that cannot be is a failure of its own. Returns the first failure.

    Args:
        path: the study's file.
        train: without it, what is not trained yet is not, and waits, with all that needs it.

    Raises:
        StoreError: the disk is full.
    """
    first: TrivetError | None = None
    for name in study.needs:
        failure = _open_system(study, name, path, runner, train=train)
        first = first or failure
    study.systems = {name: study.systems[name] for name in study.spec.systems if name in study.systems}
    return first


def _open_system(study: "Study", name: str, path: Path, runner: Runner, *, train: bool) -> TrivetError | None:
    """Open one system; a failure is recorded and returned. What makes its model comes first."""
    spec, needs, step = study.spec, study.needs[name], f"system {name}"
    try:
        if needs.all & study.waiting.keys():
            study.waiting[name] = None
            return None
        if name in spec.log_systems:
            study.systems[name] = prepare_logs(name, spec, study.base)
            return None
        uses = _made(study, name, needs.uses, "runs")
        if name not in (*spec.merge_systems, *spec.train_systems):
            study.systems[name] = prepare(read_system(name, spec, study.base), uses=uses)
            return None
        merged = name in spec.merge_systems
        step = f"{'merge' if merged else 'train'} {name}"
        read = read_merge if merged else read_training
        before = _made(study, name, needs.made_of, "starts from")
        maker = study.makers[name] = shared(read(spec, name, path), study.makers)
        maker.made_of = tuple(before.values())
        study.made[name] = place_of(maker, runner.store)
        step = f"system {name}"
        system = read_system(name, spec, study.base, checkpoint=place_of(maker, runner.store))
        step = name_of(maker)
        if maker.kind == "train" and not train and runner.find(maker.description.address) is None:
            study.waiting[name] = system
            return None
        make_checkpoint(maker, runner)
        step = f"system {name}"
        study.systems[name] = prepare(system, maker, uses)
    except StoreError:
        raise
    except Exception as error:  # libraries that load models raise what they like; the others go on
        known = error if isinstance(error, TrivetError) else _unforeseen(error, f"systems.{name}")
        study.failures[step] = failure_of(known)
        return known
    return None


def _made(study: "Study", name: str, others: frozenset[str], verb: str) -> dict[str, CheckpointStep]:
    """The steps that make what a system needs, by system, each finished.

    Raises:
        StudyError: one of them failed.
    """
    for other in sorted(others):
        if other not in study.made or not study.made[other].is_dir():
            raise StudyError(f"{verb} what {other} makes, which failed", where=f"systems.{name}")
    return {other: study.makers[other] for other in sorted(others)}


def _unforeseen(error: Exception, where: str) -> StudyError:
    known = StudyError(f"{type(error).__name__}: {error}", where=where)
    known.__cause__ = error.__cause__
    return known
