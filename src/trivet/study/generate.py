"""Generate steps: one Inspect ``eval()`` call of several tasks and models, unscored.

Inspect allows one ``eval()`` call at a time in a process, so all generate steps that are ready share one.
Answers are journalled one by one (``trivet.study.journal``); the log is made from them at the end.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspect_ai import eval as inspect_eval
from inspect_ai import task_with
from inspect_ai.hooks import Hooks, SampleEnd, hooks
from inspect_ai.log import EvalError, EvalLog, read_eval_log
from inspect_ai.model import GenerateConfig, ModelOutput, get_model

from trivet.errors import StoreError, StudyError
from trivet.study.evaluations import Evaluation
from trivet.study.journal import Journal, attach
from trivet.study.store import DISK_ERRORS, disk_error

if TYPE_CHECKING:
    from inspect_ai.model import Model

MARK = "trivet_job"
# A sample that can never be answered is measured as "could not score"; any other error fails its step.
UNANSWERABLE = ("ContextLengthError", "UnsupportedError")


@dataclass(frozen=True)
class Job:
    """One system's answers to one evaluation. ``key`` names it within the call; ``model`` makes the model."""

    key: str
    system: str
    evaluation: Evaluation
    ids: tuple[str, ...]
    max_tokens: int
    seed: int | None
    journal: Path
    model: "Callable[[], Model]"

    @property
    def answers(self) -> int:
        """How many answers it takes."""
        return len(self.ids) * self.evaluation.epochs


@dataclass(frozen=True)
class Failure:
    """Why a step failed, and what mends it."""

    error: str
    cause: str
    fix: str


_listeners: list[Callable[[], None]] = []


@cache
def _register_hook() -> None:
    """Inspect greets with a list of the hooks that it finds at its first model; ours comes after that."""
    get_model("none/none")

    @hooks(name="trivet_study", description="Counts the finished samples of a study.")
    class _Progress(Hooks):
        async def on_sample_end(self, data: SampleEnd) -> None:
            for listener in _listeners:
                listener()


def generate(
    jobs: Sequence[Job],
    *,
    folder: Path,
    max_connections: int,
    deterministic: bool,
    roles: "dict[str, Model | list[Model]] | None" = None,
    on_answer: Callable[[str, ModelOutput, bool], None],
    on_sample: Callable[[], None] = lambda: None,
    guard: Callable[[], None] = lambda: None,
) -> dict[str, Path | Failure]:
    """Answer all jobs in one call.

    Args:
        folder: where Inspect writes the logs; emptied first.
        deterministic: one answer at a time in a fixed order, so that no answer depends on what else is in
            the batch.
        roles: Inspect's model roles, such as ``grader``.
        on_answer: called with the system's name, each answer of its model, and whether it was replayed.
        on_sample: called as each sample ends.
        guard: raises where no more may be spent.

    Returns:
        By the job's key: the unscored log, or why there is none.

    Raises:
        KeyboardInterrupt: Ctrl-C; finished answers are kept.
        StoreError: the disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    journals: list[Journal] = []
    broken: list[StoreError] = []
    tasks, failures = [], dict[str, Path | Failure]()
    for job in jobs:
        try:
            journal = Journal(job.journal)
            model = attach(
                job.model(),
                journal,
                lambda output, replayed, system=job.system: on_answer(system, output, replayed),  # type: ignore[misc]
                lambda: _check(broken, guard),
                broken.append,
            )
            journals.append(journal)
            tasks.append(_task(job, model))
        except Exception as error:  # a job that cannot be set up does not stop the others
            failures[job.key] = failure_of(error)
    _register_hook()
    _listeners.append(on_sample)
    try:
        logs = [
            log
            for inline in (False, True)
            if (chosen := [task for task in tasks if (task.sandbox is not None) is inline])
            for log in _run(chosen, folder, max_connections, deterministic, roles, inline=inline)
        ]
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise disk_error(error, folder) from error
    finally:
        _listeners.remove(on_sample)
        for journal in journals:
            journal.close()
    if broken:
        raise broken[0]
    # Inspect takes Ctrl-C for itself and returns; tasks that had not begun to log are then left out.
    if len(logs) < len(tasks) or any(log.status == "cancelled" for log in logs):
        raise KeyboardInterrupt
    return {**failures, **_sort(jobs, logs, failures)}


def _check(broken: list[StoreError], guard: Callable[[], None]) -> None:
    if broken:
        raise broken[0]
    guard()


def _task(job: Job, model: "Model") -> Any:
    task = job.evaluation.task(job.ids)
    wanted = job.evaluation.entry.max_tokens
    own = task.config.max_tokens
    max_tokens = wanted or (min(own, job.max_tokens) if own else job.max_tokens)
    config = task.config.merge(GenerateConfig(max_tokens=max_tokens, seed=job.seed))
    return task_with(
        task,
        model=model,
        config=config,
        epochs=job.evaluation.epochs,
        name=job.evaluation.label,
        metadata={**(task.metadata or {}), MARK: job.key, "system": job.system},
    )


def _run(
    tasks: list[Any], folder: Path, max_connections: int, deterministic: bool, roles: Any, *, inline: bool
) -> list[EvalLog]:
    """One call of Inspect. ``inline``: tasks that need their sandbox to score do so before it is gone."""
    connections = 1 if deterministic else max_connections
    return inspect_eval(
        tasks,
        model="none",
        model_roles=roles,
        score=inline,
        display="none",
        log_dir=str(folder),
        log_format="eval",
        max_connections=connections,
        max_samples=connections,
        max_tasks=1 if deterministic else len(tasks),
        fail_on_error=False,
        score_display=False,
        log_realtime=False,
        ctl_server=False,
        log_level="error",
    )


def _sort(
    jobs: Sequence[Job], logs: list[EvalLog], failures: dict[str, Path | Failure]
) -> dict[str, Path | Failure]:
    by_key: dict[str, list[EvalLog]] = defaultdict(list)
    for log in logs:
        by_key[(log.eval.metadata or {}).get(MARK, "")].append(log)
    sorted_logs: dict[str, Path | Failure] = {}
    for job in jobs:
        if job.key in failures:
            continue
        found = by_key.get(job.key, [])
        sorted_logs[job.key] = (
            _judge_log(job, found[0])
            if found
            else Failure("no log was written", "Inspect stopped before the task began", "run the study again")
        )
    return sorted_logs


def _judge_log(job: Job, log: EvalLog) -> Path | Failure:
    """The log's path where it is whole, else the failure."""
    if log.status != "success":
        message = log.error.message if log.error else log.status
        return failure_of(StudyError(message))
    samples = log.samples if log.samples is not None else read_eval_log(log.location).samples or []
    for sample in samples:
        if sample.error and not is_unanswerable(sample.error):
            return failure_of(StudyError(sample.error.message), where=f"prompt {sample.id}")
    if len(samples) != job.answers:
        return Failure(
            f"{len(samples)} of {job.answers} answers are in the log",
            "Inspect left some samples out",
            "run the study again; finished answers are kept",
        )
    if samples and all(sample.error for sample in samples):
        return failure_of(StudyError(samples[0].error.message if samples[0].error else ""))
    return Path(log.location)


def is_unanswerable(error: EvalError) -> bool:
    """Whether an error says that this one prompt can never be answered by this system."""
    raised = error.traceback.rstrip().splitlines()
    return any(f"{name}:" in line for line in raised for name in UNANSWERABLE if not line.startswith(" "))


def failure_of(error: BaseException, where: str | None = None) -> Failure:
    """Error, cause and fix, from an exception and what it was raised from."""
    cause = error.__cause__ or error.__context__
    place = getattr(error, "where", None) or where or ""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    hint = getattr(error, "hint", None) or "mend the cause and run the study again; finished steps are kept"
    named = message if isinstance(error, StudyError) else f"{type(error).__name__}: {message}"
    return Failure(
        error=f"{place}: {named}" if place else named,
        cause=f"{type(cause).__name__}: {cause}" if cause else "",
        fix=hint,
    )
