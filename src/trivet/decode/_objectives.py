"""What a searched text is wanted to be: the objectives of ``deal``, as settings and pure functions.

Three kinds (DeAL, arXiv 2402.06147): a *soft* constraint gives the degree to which a text meets it, a *hard*
one says whether the text meets it, still may, or cannot any more, and a *parametric* one is the score of a
judge or of a function. "Final" texts are whole answers: they ended, or may get no longer.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import jsonschema
import regex
from pydantic import Field, field_validator, model_validator
from pydantic_core import from_json
from referencing import Registry

from trivet import _validation
from trivet._files import canonical_json
from trivet.decode._functions import load_function
from trivet.decode._stemming import stem
from trivet.judges.rules.segmentation import words

State: TypeAlias = Literal["satisfied", "open", "violated"]
"""``open``: not satisfied yet, but a longer text may be; ``violated``: no longer text can be."""

_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?[ \t\r\n]*"
_PATIENCE = 0.05  # seconds that one match of a regular expression may take


class CannotScoreError(Exception):
    """A text could not be scored; the message says why."""


class _Objective(_validation.Config):
    """Common to all objectives."""

    name: str | None = Field(
        None, pattern=r"^[a-z][a-z0-9_]{0,31}$", description="what the trace calls it; by default its type"
    )
    weight: float = Field(
        1.0, ge=-1000, le=1000, description="w in h = Σ w·h; negative for a cost, where less is better"
    )


class Constraint(_Objective):
    """An objective that is computed from the text alone."""

    kind: Literal["soft", "hard"] = Field("soft", description="a degree to raise, or a condition to meet")

    def state(self, text: str, *, final: bool) -> State:
        """Whether ``text`` meets the condition, still may, or cannot any more."""
        raise NotImplementedError

    def degree(self, text: str, *, final: bool) -> float:
        """How far ``text`` meets it; 1 is best."""
        return {"satisfied": 1.0, "open": 0.5, "violated": 0.0}[self.state(text, final=final)]

    def value(self, text: str, *, final: bool) -> float:
        """The heuristic h(text): the degree; for a hard constraint 0, or −1 where it is violated for good.

        Raises:
            CannotScoreError: it cannot be computed for this text.
        """
        if self.kind == "soft":
            return self.degree(text, final=final)
        return -1.0 if self.state(text, final=final) == "violated" else 0.0


class Keywords(Constraint):
    """Concepts that the answer must mention, as in CommonGen: degree = share of concepts covered."""

    type: Literal["keywords"]
    concepts: tuple[str, ...] = Field(min_length=1, max_length=100, description="words or phrases")
    stem: bool = Field(True, description="inflected English forms count too")

    @field_validator("concepts")
    @classmethod
    def _hold_words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for concept in value:
            if not words(concept):
                raise ValueError(f"{concept!r} holds no word")
        return value

    def degree(self, text: str, *, final: bool) -> float:
        covered = coverage(text, self.concepts, stemmed=self.stem)
        return sum(covered) / len(covered)

    def state(self, text: str, *, final: bool) -> State:
        if all(coverage(text, self.concepts, stemmed=self.stem)):
            return "satisfied"
        return "violated" if final else "open"


class Length(Constraint):
    """Bounds on the number of words. Degree: 1 within them, else minus the share that is missing or over."""

    type: Literal["length"]
    min_words: int | None = Field(None, ge=1, le=100_000, description="least number of words")
    max_words: int | None = Field(None, ge=1, le=100_000, description="largest number of words")

    @model_validator(mode="after")
    def _bounded(self) -> "Length":
        if self.min_words is None and self.max_words is None:
            raise ValueError("give min_words, max_words or both")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError("min_words is larger than max_words")
        return self

    def degree(self, text: str, *, final: bool) -> float:
        count = len(words(text))
        if self.max_words is not None and count > self.max_words:
            return (self.max_words - count) / self.max_words
        if self.min_words is not None and final and count < self.min_words:
            return (count - self.min_words) / self.min_words
        return 1.0

    def state(self, text: str, *, final: bool) -> State:
        count = len(words(text))
        if self.max_words is not None and count > self.max_words:
            return "violated"
        if self.min_words is not None and count < self.min_words:
            return "violated" if final else "open"
        return "satisfied"


class Regex(Constraint):
    """A regular expression, in the syntax of the ``regex`` package; half a match counts as open."""

    type: Literal["regex"]
    pattern: str = Field(min_length=1, max_length=10_000, description="the regular expression")
    match: Literal["full", "search"] = Field("full", description="the whole answer, or a part of it")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            regex.compile(value)
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value

    def state(self, text: str, *, final: bool) -> State:
        compiled = regex.compile(self.pattern)
        try:
            if self.match == "search":
                if compiled.search(text, timeout=_PATIENCE):
                    return "satisfied"
                return "violated" if final else "open"
            found = compiled.fullmatch(text, partial=True, timeout=_PATIENCE)
        except TimeoutError:
            raise CannotScoreError(f"the pattern took longer than {_PATIENCE:g} s") from None
        if found is None:
            return "violated"
        if found.partial:
            return "violated" if final else "open"
        return "satisfied"


class JsonSchema(Constraint):
    """One JSON document, and nothing else, that a schema accepts; the beginning of one counts as open.

    The schema is applied when the document is whole. References to other files are not followed.
    """

    type: Literal["json_schema"]
    definition: dict[str, Any] = Field(description="JSON Schema (draft 2020-12); {} accepts any document")

    @field_validator("definition")
    @classmethod
    def _is_a_schema(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            jsonschema.Draft202012Validator.check_schema(value)
        except jsonschema.SchemaError as error:
            raise ValueError(f"not a JSON schema: {error.message}") from None
        return value

    def state(self, text: str, *, final: bool) -> State:
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return "open" if not final and begins_json(text) else "violated"
        try:
            accepted = _validator(canonical_json(self.definition)).is_valid(document)
        except Exception as error:  # a reference that leads nowhere, a pattern that Python does not know
            raise CannotScoreError(f"the schema cannot be applied: {error}"[:200]) from None
        return "satisfied" if accepted else "violated"


class Judged(_Objective):
    """The score of a judge, in its own unit, on the chat with the rolled-out answer."""

    type: Literal["judge"]
    kind: Literal["parametric"] = Field("parametric", description="a judge's score")
    judge: str | dict[str, Any] = Field(description="name, file or settings of the judge")


class Function(_Objective):
    """A Python function ``f(prompt, continuation, final) -> float``, named ``module:function``.

    A parametric one gives any finite number and a soft one 0 to 1; a hard one is only asked about final texts
    and says whether they meet the condition.
    """

    type: Literal["function"]
    kind: Literal["soft", "hard", "parametric"] = Field("parametric", description="what its result means")
    function: str = Field(description="module:function, importable; parameters prompt, continuation, final")

    @field_validator("function")
    @classmethod
    def _is_there(cls, value: str) -> str:
        load_function(value)
        return value


Objective: TypeAlias = Annotated[
    Keywords | Length | Regex | JsonSchema | Judged | Function, Field(discriminator="type")
]


def labels(objectives: Sequence[_Objective]) -> list[str]:
    """A name for each objective, in order: its own, else its type, with a number where that is taken."""
    found: list[str] = []
    for objective in objectives:
        base = objective.name or str(getattr(objective, "type", ""))
        label, count = base, 1
        while label in found:
            count += 1
            label = f"{base}_{count}"
        found.append(label)
    return found


def coverage(text: str, concepts: Sequence[str], *, stemmed: bool = True) -> list[bool]:
    """Which of the concepts ``text`` mentions, as whole words, in any case.

    Args:
        text: the answer.
        concepts: words, or phrases whose words must follow one another.
        stemmed: inflected forms count too.
    """
    change = stem if stemmed else str.lower
    found = [change(word) for word in words(text)]
    starts: dict[str, list[int]] = {}
    for index, word in enumerate(found):
        starts.setdefault(word, []).append(index)
    wanted = [[change(word) for word in words(concept)] for concept in concepts]
    return [
        any(found[start : start + len(phrase)] == phrase for start in starts.get(phrase[0], ()))
        for phrase in wanted
    ]


def begins_json(text: str) -> bool:
    """Whether ``text`` is the beginning of a JSON document, or of white space before one."""
    stripped = text.lstrip(" \t\r\n")
    if not stripped:
        return True
    if stripped[0] in "-0123456789":
        return regex.fullmatch(_NUMBER, stripped, partial=True) is not None
    try:
        _, end = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(stripped)
        return not stripped[end:].strip(" \t\r\n")
    except (ValueError, RecursionError):
        pass
    try:
        from_json(stripped, allow_partial=True, allow_inf_nan=False)
    except ValueError as error:
        return str(error).startswith("EOF")
    return True


@lru_cache(maxsize=64)
def _validator(definition: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(definition), registry=Registry())


def _refuse_constant(name: str) -> Mapping[str, Any]:
    raise ValueError(f"{name} is no JSON")
