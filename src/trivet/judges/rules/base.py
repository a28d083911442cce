"""What every instruction rule is: a small typed model with one question, ``holds(text)``.

A *verifiable instruction* is one whose fulfilment a program can decide (the idea is that of Zhou et al.,
"Instruction-Following Evaluation for Large Language Models", arXiv 2311.07911; rules and wording here are our
own). A rule is written in a row as ``{"rule": NAME, …arguments}``; unknown names and arguments are errors.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from trivet._validation import Config, did_you_mean, validate
from trivet.errors import ConfigError, DataError
from trivet.judges.rules.segmentation import words

Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]


class Rule(Config, ABC):
    """One verifiable instruction. Subclasses are registered under their ``name``."""

    name: ClassVar[str]
    registry: ClassVar[dict[str, type["Rule"]]] = {}

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            if name in Rule.registry:
                raise TypeError(f"two rules are named {name!r}")
            cls.name = name
            Rule.registry[name] = cls

    @abstractmethod
    def holds(self, text: str) -> bool:
        """Whether ``text`` fulfils the instruction. Never raises, whatever the text."""


class Bounded(Rule):
    """A rule on a count: ``exactly`` so many, or ``at_least`` and / or ``at_most``, both inclusive."""

    exactly: Count | None = None
    at_least: Count | None = None
    at_most: Count | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> "Bounded":
        if self.exactly is not None:
            if self.at_least is not None or self.at_most is not None:
                raise ValueError("exactly stands alone")
        elif self.at_least is None and self.at_most is None:
            raise ValueError("give exactly, at_least or at_most")
        elif self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}")
        return self

    def within(self, count: int) -> bool:
        """Whether ``count`` obeys the bounds."""
        if self.exactly is not None:
            return count == self.exactly
        return (self.at_least is None or count >= self.at_least) and (
            self.at_most is None or count <= self.at_most
        )


def parse_rule(row: Mapping[str, Any], *, where: str = "rule") -> Rule:
    """Build a rule from ``{"rule": NAME, …arguments}``.

    Raises:
        DataError: no or an unknown name, an unknown argument, a value out of bounds.
    """
    arguments = dict(row)
    name = arguments.pop("rule", None)
    if not isinstance(name, str) or name not in Rule.registry:
        raise DataError(f"unknown rule {name!r}", where=where, hint=did_you_mean(str(name), Rule.registry))
    try:
        return validate(Rule.registry[name], arguments, where=f"{where}, rule {name!r}")
    except ConfigError as error:
        raise DataError(error.message, where=error.where, hint=error.hint) from None


def parse_rules(rows: Sequence[Mapping[str, Any]], *, where: str = "rules") -> list[Rule]:
    """Build the rules of a row, one or more.

    Raises:
        DataError: as ``parse_rule``, or there is none.
    """
    if not rows:
        raise DataError("a row needs at least one rule", where=where)
    return [parse_rule(row, where=where) for row in rows]


def check(rules: Sequence[Rule], text: str) -> list[bool]:
    """Which of ``rules`` the answer ``text`` fulfils, in their order.

    An answer without a letter or digit fulfils nothing: silence keeps every "do not", but it is no answer.
    """
    if not words(text):
        return [False] * len(rules)
    return [rule.holds(text) for rule in rules]
