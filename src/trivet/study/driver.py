"""A study from its file to its report: the driver behind ``trivet study plan`` and ``trivet study run``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from trivet.models.names import made_models
from trivet.study.finish import Outcome, finish
from trivet.study.opening import Study, open_study
from trivet.study.plan import Plan, full_choice
from trivet.study.planner import make_plan
from trivet.study.progress import StudyProgress
from trivet.study.run import Runner
from trivet.study.spec import load_study
from trivet.study.store import Store


def plan_study(
    path: Path,
    store: Path,
    *,
    minutes: float | None = None,
    grader: str | Sequence[str] | None = None,
    console: Console,
) -> Plan:
    """The plan of a study. Its speed is measured where it is not known; those answers are kept.

    Merges are made: the speed of a model that is not there cannot be measured. Nothing is trained: what needs
    a training run that is still to be done is listed with what is known of it, and not measured.

    Args:
        grader: models for Inspect's role ``grader``, in place of the study's.

    Raises:
        TrivetError: as ``run_study``.
    """
    with _opened(path, store, grader, console, show=True, train=False) as (study, runner):
        return make_plan(study, runner, minutes, measure=True)


def run_study(
    path: Path,
    store: Path,
    *,
    minutes: float | None = None,
    grader: str | Sequence[str] | None = None,
    console: Console,
    show: bool = True,
) -> Outcome:
    """Run what is not finished, and write the report.

    Args:
        grader: models for Inspect's role ``grader``, in place of the study's.

    Raises:
        ConfigError: the study file is wrong.
        StoreError: another driver is at work, or the disk is full.
        StudyError: it cannot be planned, or a use is circular.
        KeyboardInterrupt: Ctrl-C; finished answers are kept.
    """
    with _opened(path, store, grader, console, show=show) as (study, runner):
        plan = make_plan(study, runner, minutes, measure=minutes is not None)
        for text in plan.choice.said:
            runner.progress.say(text)
        cells = study.cells(plan.choice.prompts, plan.choice.max_tokens)
        runner.progress.expect(2 * len(cells) + len(study.systems) + 2)
        runner.generate(cells)
        runner.score(cells)
        runner.latency(list(study.systems.values()), cells, plan.latency_prompts, plan.choice.max_tokens)
        return finish(study, runner, plan, cells)


@contextmanager
def _opened(
    path: Path,
    store: Path,
    grader: str | Sequence[str] | None,
    console: Console,
    *,
    show: bool,
    train: bool = True,
) -> Iterator[tuple[Study, Runner]]:
    """A study in its store, whose lock is held: checkpoints are made in it while the systems are opened."""
    spec = load_study(path)
    if grader:
        spec = spec.model_copy(update={"grader": grader if isinstance(grader, str) else list(grader)})
    made: dict[str, Path] = {}
    with (
        Store(store).driver() as opened,
        StudyProgress(console, 1, show=show) as progress,
        made_models(made),
    ):
        runner = Runner(spec, path.absolute().parent, opened, progress)
        study = open_study(spec, path, runner, made=made, train=train)
        runner.roles = study.roles
        full = full_choice(spec, study.evaluations)
        runner.count_spent(study.cells(full.prompts, full.max_tokens))
        yield study, runner
