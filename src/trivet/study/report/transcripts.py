"""One answer as the report shows it; a study keeps them in ``transcripts.jsonl`` beside its results."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet._files import atomic_writer
from trivet.errors import StoreError
from trivet.study.measurements import Measurement
from trivet.study.report.traces import bounded

if TYPE_CHECKING:  # Inspect is heavy and only needed where logs are read
    from inspect_ai.log import EvalLog, EvalSample


@dataclass(frozen=True, slots=True)
class Transcript:
    """One answer of one system to one prompt, with its score.

    ``value`` ``None`` means "could not score" and ``reason`` says why. ``tokens`` counts the answer's tokens;
    ``stop_reason`` is Inspect's (``stop``, ``max_tokens``, ...). ``trace`` holds the decoding method's notes,
    cut by ``trivet.study.report.traces``.
    """

    system: str
    evaluation: str
    component: str
    sample_id: str
    epoch: int
    prompt: str
    answer: str
    value: float | None = None
    label: str | None = None
    reason: str | None = None
    judge: str | None = None
    category: str | None = None
    reasoning: str | None = None
    tokens: int | None = None
    stop_reason: str | None = None
    trace: list[dict[str, Any]] | None = None


_FIELDS = tuple(field.name for field in fields(Transcript))
_REQUIRED = {"system", "evaluation", "component", "sample_id", "epoch", "prompt", "answer"}


def transcripts_of(log: "EvalLog", measurements: Iterable[Measurement]) -> Iterator[Transcript]:
    """The answers in a scored log, joined with the measurements that were read from the same log.

    A sample without a measurement is left out.
    """
    by_key = {(measurement.sample_id, measurement.epoch): measurement for measurement in measurements}
    for sample in log.samples or []:
        measurement = by_key.get((str(sample.id), sample.epoch))
        if measurement is None:
            continue
        usage = sample.output.usage
        yield Transcript(
            system=measurement.system,
            evaluation=measurement.evaluation,
            component=measurement.component,
            sample_id=measurement.sample_id,
            epoch=measurement.epoch,
            prompt=_prompt(sample),
            answer=sample.output.completion,
            value=measurement.value,
            label=measurement.label,
            reason=measurement.reason,
            judge=measurement.judge,
            category=measurement.category,
            reasoning=_reasoning(sample),
            tokens=usage.output_tokens if usage else None,
            stop_reason=sample.output.stop_reason if sample.output.choices else None,
            trace=_trace(sample),
        )


def _prompt(sample: "EvalSample") -> str:
    if isinstance(sample.input, str):
        text = sample.input
    elif len(sample.input) == 1:
        text = sample.input[0].text
    else:
        text = "\n\n".join(f"{message.role}: {message.text}" for message in sample.input)
    if not sample.choices:
        return text
    return text + "".join(
        f"\n{chr(ord('A') + number)}) {choice}" for number, choice in enumerate(sample.choices)
    )


def _reasoning(sample: "EvalSample") -> str | None:
    if not sample.output.choices:
        return None
    content = sample.output.choices[0].message.content
    if isinstance(content, str):
        return None
    parts = [block.reasoning for block in content if block.type == "reasoning"]
    return "\n\n".join(parts) or None


def _trace(sample: "EvalSample") -> list[dict[str, Any]] | None:
    """The method's notes of the answer, ``None`` where there are none or the answer was blocked."""
    if sample.output.choices and sample.output.stop_reason == "content_filter":
        return None  # what was kept back must not come out through the search for it
    return bounded((sample.output.metadata or {}).get("trace")) or None


def write_transcripts(path: Path, transcripts: Iterable[Transcript]) -> int:
    """Write the answers as JSON lines, atomically; returns how many.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    count = 0
    with atomic_writer(path) as stream:
        for count, transcript in enumerate(transcripts, 1):  # noqa: B007 - the count is the result
            row = {key: value for key, value in asdict(transcript).items() if value is not None}
            # Escaped to ASCII: a lone surrogate of a model's text cannot be written as UTF-8.
            stream.write(json.dumps(row, allow_nan=False) + "\n")
    return count


def read_transcripts(path: Path) -> Iterator[Transcript]:
    """Read what ``write_transcripts`` wrote.

    Raises:
        StoreError: the file cannot be read, or a line is not an answer.
    """
    try:
        with Path(path).open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                yield _parse(line, where=f"{path}: line {number}")
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise StoreError(f"cannot be read: {error}", where=str(path)) from None


def _parse(line: str, *, where: str) -> Transcript:
    hint = "`trivet report STORE` writes it anew from the store"
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise StoreError(f"is not JSON: {error}", where=where, hint=hint) from None
    if not isinstance(row, dict) or not row.keys() >= _REQUIRED or not row.keys() <= set(_FIELDS):
        raise StoreError("is not an answer of a study", where=where, hint=hint)
    if "trace" in row:
        row["trace"] = bounded(row["trace"])
    return Transcript(**row)
