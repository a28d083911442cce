"""Circular uses in a study that is being opened; see ``trivet.study.circular``."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trivet.errors import TrivetError
from trivet.judges.base import Judge, parts_of
from trivet.judges.grader import GraderJudge
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
        Steered(
            name,
            system.judges,
            grading_models((*system.judges, *trained_by(system.maker)), bound),
            trained_on(system.maker) | (system.system.trained_on if system.system else frozenset()),
            trained_by(system.maker),
        )
        for name, system in study.systems.items()
    ]
    measured = _measured(study)
    study.circles = find_circles(systems, measured)
    study.notes = shared_rows(systems, measured)
    refuse_circles(study.circles, allow=study.spec.allow_circular, where=where)


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


def refuse_circular_training(study: "Study", path: Path) -> None:
    """Refuse training that ``check_circles`` would refuse, before it takes its time.

    Raises:
        StudyError: a use is circular.
    """
    learning = []
    for name in study.spec.train_systems:
        with suppress(TrivetError):  # a mistake in its settings is told in its own step
            config = read_settings(study.spec, name, path)[2]
            judges = config.judges(study.base)
            graders = grading_models(judges, study.spec.graders)
            learning.append(Steered(name, (), graders, config.prompts(study.base), judges))
    circles = find_circles(learning, _measured(study))
    refuse_circles(circles, allow=study.spec.allow_circular, where=str(path))
