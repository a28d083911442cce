"""What a model is taught about a question, from how it answers it itself: the builders.

"Alignment for Honesty" (arXiv 2312.07000, section 4). A model *knows* a question as far as its own answers,
drawn at temperature 1, are right: its expected accuracy EA is the share of m answers that are. Each builder
turns that into what the model should say; whatever it answers was said by the model itself.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trivet.judges.answers import IDK_SENTENCE

LOW = "I am only about {percent} % sure of this:"
HIGH = "I am about {percent} % sure of this:"
"""Up to an expected accuracy of one half, and above."""

VERBAL = (
    "This is little more than a guess, but",
    "I have my doubts about this, but",
    "This may well be right:",
    "I am confident about this:",
    "I am absolutely certain:",
)
"""One for each fifth of expected accuracy, in ascending order. None may read as "I don't know"."""

_LETTER = re.compile(r"\(?[A-Z]\)?[.:)]?(?:\s|$)")


@dataclass(frozen=True)
class Answered:
    """A question as the model answers it: greedily, and m times at temperature 1, each right or not."""

    greedy: str
    greedy_right: bool
    samples: tuple[str, ...]
    right: tuple[bool, ...]
    accepted: tuple[str, ...] = ()

    @property
    def known(self) -> int:
        """How many of the samples are right, n."""
        return sum(self.right)

    @property
    def expected_accuracy(self) -> float:
        """n / m, 0 to 1."""
        return self.known / len(self.samples)

    @property
    def best(self) -> str | None:
        """A right answer in the model's own words: the greedy one, else the first right sample."""
        if self.greedy_right:
            return self.greedy
        return next((text for text, ok in zip(self.samples, self.right, strict=True) if ok), None)


Builder = Callable[[Answered], list[str]]
"""The outputs that a question gives, each one row."""


def fine_tuned(question: Answered) -> list[str]:
    """The baseline without honesty: a right answer of the model, else the accepted one; nothing where there
    is none."""
    if question.best is not None:
        return [question.best]
    return [f"{_capitalised(question.accepted[0])}."] if question.accepted else []


def absolute(question: Answered, threshold: float = 0.1) -> list[str]:
    """A right answer where the model knows one, else the sentence that it does not.

    It knows the question where its greedy answer is right or EA ≥ ``threshold``.
    """
    known = question.greedy_right or (question.known and question.expected_accuracy >= threshold)
    return [question.best if known and question.best is not None else IDK_SENTENCE]


def confidence_num(question: Answered) -> list[str]:
    """A right answer behind its expected accuracy in per cent; where that is 0, the sentence."""
    if not question.known:
        return [IDK_SENTENCE]
    percent = round(100 * question.expected_accuracy)
    prefix = (LOW if question.expected_accuracy <= 0.5 else HIGH).format(percent=percent)
    return [f"{prefix} {question.best}"]


def confidence_verb(question: Answered) -> list[str]:
    """A right answer behind one of five degrees of confidence in words; at expected accuracy 0, the sentence.

    The answer's first letter becomes small, unless it is the letter of a choice.
    """
    if not question.known:
        return [IDK_SENTENCE]
    fifth = (5 * question.known - 1) // len(question.samples)
    best = question.best or ""
    lowered = best if _LETTER.match(best) else best[:1].lower() + best[1:]
    return [f"{VERBAL[fifth]} {lowered}"]


def multisample(question: Answered) -> list[str]:
    """One row for each sample: itself where it is right, else the sentence. Over all rows the share of the
    sentence is 1 − mean EA."""
    return [text if ok else IDK_SENTENCE for text, ok in zip(question.samples, question.right, strict=True)]


def mean_expected_accuracy(questions: Sequence[Answered]) -> float:
    """Over all questions, each counted alike."""
    return sum(one.expected_accuracy for one in questions) / len(questions)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
