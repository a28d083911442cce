"""Score steps: scorers applied to a finished log, so that a new judge never generates an answer again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspect_ai import score as inspect_score
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log

from trivet.data.prompts import prompt_digest
from trivet.errors import DataError, StudyError, TrivetError
from trivet.study.evaluations import Evaluation, sample_text
from trivet.study.generate import is_unanswerable

if TYPE_CHECKING:
    from inspect_ai.model import Model


def score_log(
    source: Path,
    target: Path,
    evaluation: Evaluation,
    *,
    model: "Callable[[], Model] | None" = None,
    roles: "dict[str, Model | list[Model]] | None" = None,
) -> EvalLog:
    """Score ``source`` with the evaluation's scorers and write the scored log to ``target``.

    Samples that ended with an error keep it and get no score.

    Args:
        model: makes the model that a scorer gets where it asks for none in particular; by default a model
            that refuses to be asked.

    Raises:
        StudyError: a scorer raised, or gave no score.
    """
    log = read_eval_log(str(source))
    scorers = evaluation.task(_ids(log)).scorer
    if not scorers:
        raise StudyError("the task has no scorer", where=evaluation.label, hint="add `scorer=` to its Task")
    errored = [sample for sample in log.samples or [] if sample.error]
    log.samples = [sample for sample in log.samples or [] if not sample.error]
    try:
        scored = inspect_score(
            log,
            scorers,
            model=model() if model else "none/none",
            model_roles=roles,
            action="overwrite",
            display="none",
            copy=False,
        )
    except TrivetError:
        raise
    except Exception as error:  # scorers are anybody's code; the step fails and names the cause
        raise StudyError(
            f"scoring failed: {type(error).__name__}: {error}", where=f"evaluation {evaluation.label}"
        ) from error
    scored.samples = [*(scored.samples or []), *errored]
    write_eval_log(scored, str(target))
    return scored


def import_log(path: Path, evaluation: Evaluation, ids: Sequence[str]) -> EvalLog:
    """An existing log that stands in for a system's answers: those of ``ids`` that it holds.

    Raises:
        DataError: it is not an Inspect log, did not finish, or holds none of these prompts.
    """
    log = read_log(path)
    if log.status != "success":
        raise DataError(f"the log's status is {log.status}, not success", where=str(path))
    wanted = set(ids)
    log.samples = [sample for sample in log.samples or [] if str(sample.id) in wanted]
    if not log.samples:
        raise DataError(
            f"holds none of the {len(wanted)} prompts of {evaluation.label} that this study asks",
            where=str(path),
            hint="prompts are matched by sample id; run its task on the same rows",
        )
    asked = {str(row["id"]): row["prompt_digest"] for row in evaluation.rows}
    for sample in log.samples:
        if prompt_digest(sample_text(sample)) != asked[str(sample.id)]:
            raise DataError(
                f"the prompt {str(sample.id)!r} is another one than that of {evaluation.label} in this study",
                where=str(path),
                hint="run its task on the same rows; ids alone do not make prompts the same",
            )
    return log


def read_log(path: Path, *, header_only: bool = False) -> EvalLog:
    """Read an Inspect log.

    Raises:
        DataError: there is no such file, or it is not an Inspect log.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path))
    try:
        return read_eval_log(str(path), header_only=header_only)
    except Exception as error:  # zip, JSON and schema errors all mean the same here
        raise DataError(f"is not an Inspect log: {type(error).__name__}: {error}", where=str(path)) from error


def _ids(log: EvalLog) -> list[str]:
    return list(dict.fromkeys(str(sample.id) for sample in log.samples or []))


def sample_reason(sample: Any) -> str:
    """Why a sample has no score."""
    if sample.error:
        return "the prompt cannot be answered" if is_unanswerable(sample.error) else "error"
    if sample.limit:
        return f"stopped by the {sample.limit.type} limit"
    return "the scorer gave no score"
