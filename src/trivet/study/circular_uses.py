"""Circular uses in a study that is being opened; see ``trivet.study.circular``."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trivet.errors import TrivetError
from trivet.judges.base import Judge, parts_of
from trivet.judges.grader import GraderJudge
from trivet.models.names import MADE, resolve_model
from trivet.study.checkpoint_step import trained_by, trained_on
from trivet.study.circular import (
    Measured,
    Steered,
    find_circles,
    grading_models,
    refuse_circles,
    shared_rows,
)
from trivet.study.evaluations import Evaluation
from trivet.study.train_step import read_settings
from trivet.train.settings import anchored

if TYPE_CHECKING:
    from trivet.study.opening import Study


def graded_by_role(evaluation: Evaluation, judges: Sequence[Judge]) -> bool:
    """Whether the models of Inspect's role ``grader`` may score it: a grader without a model, or any task
    that is not ours, whose scorers are not known."""
    ours = evaluation.entry.shipped or evaluation.entry.prompts is not None
    return not ours or any(
        isinstance(part, GraderJudge) and part.config.model is None
        for one in judges
        for part in parts_of(one)
    )


def check_circles(study: "Study", *, where: str) -> None:
    """Find circular uses and refuse them, unless the study allows them.

    Raises:
        StudyError: a use is circular.
    """
    bound = study.spec.graders
    systems = [
        _steered(
            name,
            system.judges,
            (system.system.trained_on if system.system else frozenset[str]()).union(
                *map(trained_on, system.makers)
            ),
            tuple(judge for maker in system.makers for judge in trained_by(maker)),
            bound,
        )
        for name, system in study.systems.items()
    ]
    for name, waiting in study.waiting.items():
        learnt = study.learning.get(name, Steered(name, ()))
        judges = () if waiting is None else waiting.judges
        systems.append(_steered(name, judges, learnt.trained_on, learnt.trained_by, bound))
    measured = _measured(study)
    study.circles = find_circles(systems, measured)
    study.notes = shared_rows(systems, measured)
    refuse_circles(study.circles, allow=study.spec.allow_circular, where=where)


def _steered(
    name: str,
    judges: tuple[Judge, ...],
    learnt: frozenset[str],
    trained: tuple[Judge, ...],
    bound: Sequence[str],
) -> Steered:
    return Steered(name, judges, grading_models((*judges, *trained), bound), learnt, trained)


def _measured(study: "Study") -> list[Measured]:
    bound = study.spec.graders
    return [
        Measured(
            e.label,
            study.judges[e.label],
            frozenset(str(row["prompt_digest"]) for row in e.rows),
            grading_models(study.judges[e.label], bound)
            | frozenset(bound if graded_by_role(e, study.judges[e.label]) else ()),
        )
        for e in study.evaluations
    ]


def _learnt_before(model: str, base: Path) -> frozenset[str]:
    """What a model that training starts from had learnt from elsewhere; a system's own is counted by name."""
    return frozenset() if model.startswith(MADE) else resolve_model(anchored(model, base)).trained_on


def refuse_circular_training(study: "Study", path: Path) -> None:
    """Refuse training that ``check_circles`` would refuse, before it takes its time. ``study.learning`` is
    then what is known of the systems that are trained, or need one that is.

    Raises:
        StudyError: a use is circular.
    """
    for name, needs in study.needs.items():
        prompts, judges = list[frozenset[str]](), list[Judge]()
        if name in study.spec.train_systems:
            with suppress(TrivetError):  # a mistake in its settings is told in its own step
                config = read_settings(study.spec, name, path)[2]
                judges += config.judges(study.base)
                prompts.append(config.prompts(study.base))
                prompts += [_learnt_before(model, study.base) for model in config.models()]
        for other in sorted(needs.all & study.learning.keys()):
            prompts.append(study.learning[other].trained_on)
            judges += study.learning[other].trained_by
        if prompts or judges:
            learnt = frozenset[str]().union(*prompts)
            study.learning[name] = _steered(name, (), learnt, tuple(judges), study.spec.graders)
    circles = find_circles(study.learning.values(), _measured(study))
    refuse_circles(circles, allow=study.spec.allow_circular, where=str(path))
