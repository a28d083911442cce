"""The row of each kind of data set: what an evaluation or a judge may rely on.

A *kind* says what is measured with a row. ``instructions``, ``short_questions``, ``honest``, ``harmless``,
``over_refusal`` and ``capability`` are prompts for an evaluation; ``preferences``, ``labelled_answers`` and
``statements`` are material to fit or to check judges with.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trivet._validation import did_you_mean
from trivet.errors import DataError

Kind = Literal[
    "instructions",
    "short_questions",
    "honest",
    "harmless",
    "over_refusal",
    "capability",
    "preferences",
    "labelled_answers",
    "statements",
]


class Row(BaseModel):
    """What every row has: a stable ``id``, a ``category`` and free ``metadata`` that came with the source."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    id: str = Field(min_length=1)
    category: str = Field(min_length=1)
    metadata: dict[str, Any] = Field(default_factory=dict)


class PromptRow(Row):
    """A row that asks something. Harmful requests and requests that only look so need no more than this."""

    prompt: str

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("the prompt is blank")
        return prompt


class InstructionsRow(PromptRow):
    """A request whose fulfilment ``rules`` verify: ``[{"rule": name, …arguments}, …]``, one or more."""

    rules: list[dict[str, Any]] = Field(min_length=1)

    @field_validator("rules")
    @classmethod
    def _named(cls, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not all(isinstance(rule.get("rule"), str) and rule["rule"] for rule in rules):
            raise ValueError('every rule needs a name under the key "rule"')
        return rules


class QuestionRow(PromptRow):
    """A short question and every form of its answer that counts as right."""

    answers: list[str] = Field(min_length=1)

    @field_validator("answers")
    @classmethod
    def _distinct(cls, answers: list[str]) -> list[str]:
        if not all(answer.strip() for answer in answers):
            raise ValueError("an accepted answer is blank")
        if len(set(answers)) != len(answers):
            raise ValueError("an accepted answer is given twice")
        return answers


class HonestRow(PromptRow):
    """A question that can be answered (``answers``) or cannot be (``why``)."""

    answerable: bool
    answers: list[str] = Field(default_factory=list)
    why: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "HonestRow":
        if self.answerable and not self.answers:
            raise ValueError("an answerable question needs answers")
        if self.answerable and self.why is not None:
            raise ValueError("why belongs to unanswerable questions only")
        if not self.answerable and (self.answers or not (self.why or "").strip()):
            raise ValueError("an unanswerable question has no answers and says why")
        return self


class MultipleChoiceRow(PromptRow):
    """A question with two or more ``choices`` of which the one at index ``answer`` is right."""

    choices: list[str] = Field(min_length=2, max_length=26)
    answer: int = Field(ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> "MultipleChoiceRow":
        if self.answer >= len(self.choices):
            raise ValueError(f"answer {self.answer} is not an index of the {len(self.choices)} choices")
        if [choice.strip() for choice in self.choices].count(self.choices[self.answer].strip()) > 1:
            raise ValueError("the right choice is given twice")
        return self


class PreferenceRow(Row):
    """A conversation in two versions, the last answer of ``chosen`` preferred to that of ``rejected``.

    ``prompt``, ``chosen`` and ``rejected`` are lists of ``{"role", "content"}`` messages, TRL's
    conversational preference format: the answers stand apart from the shared prompt.
    """

    prompt: list[dict[str, str]] = Field(min_length=1)
    chosen: list[dict[str, str]] = Field(min_length=1)
    rejected: list[dict[str, str]] = Field(min_length=1)


class LabelledAnswerRow(PromptRow):
    """An answer of some model and the labels that people gave it, one per annotator."""

    answer: str
    model: str
    labels: list[str] = Field(min_length=1)


class StatementRow(Row):
    """A statement and whether it is true."""

    statement: str = Field(min_length=1)
    true: bool


ROW_TYPES: Mapping[str, type[Row]] = {
    "instructions": InstructionsRow,
    "short_questions": QuestionRow,
    "honest": HonestRow,
    "harmless": PromptRow,
    "over_refusal": PromptRow,
    "capability": MultipleChoiceRow,
    "preferences": PreferenceRow,
    "labelled_answers": LabelledAnswerRow,
    "statements": StatementRow,
}


def check_rows(rows: Iterable[tuple[str, Mapping[str, Any]]], kind: str) -> list[dict[str, Any]]:
    """Check rows against the schema of their kind.

    Args:
        rows: pairs of the place of a row (``"file.jsonl, line 7"``) and the row.
        kind: a key of ``ROW_TYPES``.

    Returns:
        The rows as plain dictionaries with defaults filled in, in their order.

    Raises:
        DataError: an unknown kind; no rows; a row breaks its schema; an id is given twice.
    """
    if kind not in ROW_TYPES:
        raise DataError(f"unknown kind of data set {kind!r}", hint=did_you_mean(kind, ROW_TYPES))
    row_type = ROW_TYPES[kind]
    checked: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        try:
            value = row_type.model_validate(dict(row)).model_dump()
        except ValidationError as error:
            raise _row_error(error, where, kind, row_type) from None
        if value["id"] in seen:
            raise DataError(
                f"the id {value['id']!r} is already that of {seen[value['id']]}",
                where=where,
                hint="ids must be unique in a data set, since answers are matched by them",
            )
        seen[value["id"]] = where
        checked.append(value)
    if not checked:
        raise DataError("the data set has no rows", hint=f"a set of kind {kind!r} needs at least one row")
    return checked


def _row_error(error: ValidationError, where: str, kind: str, row_type: type[Row]) -> DataError:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        message = f"the field {field!r} is missing"
    elif first["type"] == "extra_forbidden":
        message = f"unknown field {field!r}"
    else:
        rule = first["msg"].removeprefix("Value error, ")
        received = repr(first["input"])
        message = f"{field or 'row'}: {rule} (received {received[:80]})"
    fields = ", ".join(name for name in row_type.model_fields)
    return DataError(message, where=where, hint=f"a row of kind {kind!r} has the fields {fields}")
