"""Questions with their accepted answers: a suite that ships, a public set, or a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivet._files import named_path, sha256_text
from trivet.data.prompts import prompt_digest
from trivet.data.public import is_public, load_reference
from trivet.data.reading import read_rows, text_field
from trivet.data.suites import names, suite_hash, suite_rows
from trivet.errors import DataError
from trivet.train.settings import data_digest

KINDS = ("short_questions", "honest")


@dataclass(frozen=True)
class Question:
    """A question; ``accepted`` is empty where it cannot be answered."""

    text: str
    accepted: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the question (``trivet.data.prompts.prompt_digest``)."""
        return prompt_digest(self.text)


@dataclass(frozen=True)
class QuestionSet:
    """Questions as read, each once. ``left_out`` counts, by reason, the rows that gave none."""

    source: str
    questions: Sequence[Question]
    left_out: Mapping[str, int]


def read_questions(source: str, *, base: Path) -> QuestionSet:
    """Read questions.

    Args:
        source: the name of a suite that ships (``honest``, ``short_questions``); ``NAME[/SPLIT]:PATH`` for a
            public set of such rows; or a file, whose rows have ``prompt`` (or ``question``) and ``answers``
            (or ``answer``), one text or several; a row with ``answerable: false`` needs none.
        base: the folder that a relative path is relative to.

    Raises:
        DataError: it cannot be read, or a row is not a question; names file, line and field.
    """
    path = named_path(source, base, error=DataError)
    left_out: dict[str, int] = {}
    name = source
    if source in names() and not path.exists():
        rows = [(f"suite {source}, row {number}", row) for number, row in enumerate(suite_rows(source), 1)]
    elif is_public(source) and not path.exists():
        known, _, place = source.partition(":")
        loaded = load_reference(f"{known}:{named_path(place, base, error=DataError)}" if place else known)
        if loaded.kind not in KINDS:
            raise DataError(f"holds rows of kind {loaded.kind!r}, not questions with answers", where=source)
        rows = [(f"{source}, row {number}", row) for number, row in enumerate(loaded.rows, 1)]
        name, left_out = f"{loaded.name}/{loaded.split} ({loaded.revision})", dict(loaded.left_out)
    else:
        rows = read_rows(path)
    found: dict[str, Question] = {}
    for place, row in rows:
        question = _question(row, place)
        if question.digest in found:
            left_out["asks what another row asks"] = left_out.get("asks what another row asks", 0) + 1
        found.setdefault(question.digest, question)
    return QuestionSet(name, list(found.values()), left_out)


def questions_digest(source: str, base: Path) -> str:
    """A digest of the rows that ``source`` names."""
    if source in names() and not (base / source).exists():
        return sha256_text(suite_hash(source))
    return data_digest(source, base)


def _question(row: dict[str, Any], place: str) -> Question:
    field = "question" if "prompt" not in row and "question" in row else "prompt"
    text = text_field(row, field, place)
    given = row.get("answers") if row.get("answers") is not None else row.get("answer")
    accepted = [given] if isinstance(given, str) else given
    if row.get("answerable") is False and not accepted:
        return Question(text, ())
    usable = (
        isinstance(accepted, list)
        and accepted
        and all(isinstance(answer, str) and answer.strip() for answer in accepted)
    )
    if not usable:
        raise DataError(
            f"answers: must be one or more texts (received {given!r:.80})",
            where=place,
            hint="a question that cannot be answered has answerable: false",
        )
    assert isinstance(accepted, list)
    return Question(text, tuple(dict.fromkeys(accepted)))
