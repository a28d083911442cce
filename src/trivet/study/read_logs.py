"""Scored logs → measurements: all that a study's statistics see of Inspect."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalLog, EvalSample, read_eval_log
from inspect_ai.scorer import CORRECT, INCORRECT, NOANSWER, PARTIAL, Score, value_to_float

from trivet._text import printable
from trivet.errors import StudyError
from trivet.study.measurements import Measurement
from trivet.study.score import sample_reason
from trivet.study.spec import EvaluationEntry

_to_float = value_to_float()


def read_measurements(log: Path | EvalLog, *, system: str, entry: EvaluationEntry) -> list[Measurement]:
    """One measurement for each sample and epoch of a scored log.

    Raises:
        StudyError: the log has several scores and ``score`` does not say which counts.
    """
    scored = log if isinstance(log, EvalLog) else read_eval_log(str(log))
    return list(_measurements(scored, system, entry))


def _measurements(log: EvalLog, system: str, entry: EvaluationEntry) -> Iterator[Measurement]:
    for sample in log.samples or []:
        name, score = _pick(sample, entry, log.location)
        metadata = sample.metadata or {}
        details = (score.metadata or {}) if score else {}
        value = _value(score, entry)
        yield Measurement(
            system=system,
            evaluation=entry.label,
            component=str(metadata.get("component") or entry.label),
            sample_id=str(sample.id),
            epoch=sample.epoch,
            cluster=str(metadata.get("cluster") or sample.id),
            value=value,
            label=details.get("label"),
            reason=None if value is not None else _reason(sample, score),
            judge=details.get("judge") or name,
            category=str(metadata["category"]) if "category" in metadata else None,
            metadata=_facts(sample, details),
        )


def _pick(sample: EvalSample, entry: EvaluationEntry, where: str) -> tuple[str | None, Score | None]:
    scores = sample.scores or {}
    if entry.score is not None and entry.score in scores:
        return entry.score, scores[entry.score]
    if entry.score is not None and len(scores) == 1:
        return next(iter(scores.items()))  # `score` then names a key of its value
    if len(scores) > 1 and entry.score is None:
        raise StudyError(
            f"the task gives several scores: {', '.join(scores)}",
            where=f"evaluation {entry.label}",
            hint="say which one counts with `score:`",
        )
    if scores and entry.score is not None:
        raise StudyError(
            f"the task gives no score {entry.score!r}; it gives {', '.join(scores)}",
            where=f"evaluation {entry.label}",
        )
    return next(iter(scores.items())) if scores else (None, None)


def _value(score: Score | None, entry: EvaluationEntry) -> float | None:
    if score is None:
        return None
    value: Any = score.value
    if isinstance(value, dict):
        if entry.score is None or entry.score not in value:
            raise StudyError(
                f"the score has the parts {', '.join(map(str, value))}",
                where=f"evaluation {entry.label}",
                hint="say which one counts with `score:`",
            )
        value = value[entry.score]
    if value is None or isinstance(value, list | dict):
        return None
    number = float(value) if isinstance(value, int | float) else _number_of(value)
    return number if number is not None and math.isfinite(number) else None


def _number_of(value: str) -> float | None:
    """Inspect's letters (C, I, P, N), words and figures; of any other text Inspect makes a silent 0."""
    if value in (CORRECT, INCORRECT, PARTIAL, NOANSWER) or value.lower() in ("yes", "true", "no", "false"):
        return float(_to_float(value))
    try:
        return float(value)
    except ValueError:
        return None


def _reason(sample: EvalSample, score: Score | None) -> str:
    if score is None:
        return sample_reason(sample)
    if score.reason:
        return str(score.reason)
    text = isinstance(score.value, str)
    return f"the score is no number: {printable(str(score.value))[:40]}" if text else sample_reason(sample)


def _facts(sample: EvalSample, details: dict[str, Any]) -> dict[str, Any]:
    """What the report and the costs need of one answer, in plain values."""
    usage = sample.output.usage
    return {
        **{key: value for key, value in details.items() if key not in {"label", "judge"}},
        "output_tokens": usage.output_tokens if usage else None,
        "input_tokens": usage.input_tokens if usage else None,
        "stop_reason": sample.output.stop_reason if sample.output.choices else None,
        "costs": dict((sample.output.metadata or {}).get("costs") or {}),
    }
