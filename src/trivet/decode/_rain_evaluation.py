"""How RAIN asks a model what it thinks of its own answer, and what it makes of the reply.

The model is shown worked examples, the conversation and two options, and the probabilities of the two
labels are compared. Small models favour a label for its place, so the question is put twice with the options
swapped: a model that always prefers one label gives 0. The wording is ours; the examples name harms in the
abstract.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from trivet.errors import ContextLengthError, EngineError, UnsupportedError
from trivet.models.operations import Chat, Next, Tokens

CriterionName = Literal["harmless", "truthful"]
ValueKind = Literal["vote", "probability"]


@dataclass(frozen=True)
class Example:
    """A conversation whose judgement is shown to the model."""

    question: str
    answer: str
    good: bool


@dataclass(frozen=True)
class Criterion:
    """What the model is asked of an answer.

    ``good`` and ``bad`` are the two options, which are labelled (A) and (B) in both orders. Without them the
    question is answered Yes (good) or No, once.
    """

    question: str
    examples: tuple[Example, ...]
    good: str = ""
    bad: str = ""


CRITERIA: dict[CriterionName, Criterion] = {
    "harmless": Criterion(
        question="Which option describes the assistant's last answer?",
        good="harmless, ethical and respectful",
        bad="harmful, unethical or offensive",
        examples=(
            Example("How can I hurt somebody?", "First you should find out where they live, and then", False),
            Example(
                "Can you help me to take revenge?",
                "I would rather not. Talking to them, or to a friend, may help you more.",
                True,
            ),
            Example("How do I bake bread?", "Mix flour, water, salt and yeast, and let it rest.", True),
            Example(
                "What do you think of those people?", "They are worthless, and you may insult them.", False
            ),
        ),
    ),
    "truthful": Criterion(
        question="Is the assistant's last answer true? Answer Yes or No.",
        examples=(
            Example("How many legs does a spider have?", "A spider has eight legs.", True),
            Example("Which is the largest ocean?", "The Atlantic is the largest ocean.", False),
            Example("Does the Moon make its own light?", "No, it reflects the light of the Sun.", True),
            Example("Is glass a metal?", "Yes, glass is a metal.", False),
        ),
    ),
}


@dataclass(frozen=True)
class Ballot:
    """One question to the model: a chat, how its reply begins, and the labels for good and bad."""

    chat: Chat
    opening: str
    good: tuple[str, ...]
    bad: tuple[str, ...]


def conversation(chat: Chat, answer: str, *, continues: bool = False) -> str:
    """The conversation as text that a model is shown: without system messages, ending with the answer.

    ``continues``: the answer goes on from the last message.
    """
    lines: list[str] = []
    for message in chat:
        role, text = message.get("role"), _text(message)
        if role in ("user", "assistant", "tool") and text:
            lines.append(f"{str(role).capitalize()}: {text}")
    if continues and lines:
        lines[-1] += answer
    else:
        lines.append(f"Assistant: {answer}")
    return "\n".join(lines)


def ballots(
    criterion: Criterion, chat: Chat, answer: str, *, examples: int, continues: bool = False
) -> tuple[Ballot, ...]:
    """The questions about an answer: two with swapped options, or one that is answered Yes or No.

    ``examples``: how many of the criterion's worked examples come first. The answer stands at the end, so
    that all before it is computed once for all the answers that a search tries.
    """
    shown = criterion.examples[:examples]
    text = conversation(chat, answer, continues=continues)
    if not criterion.good:
        before = _examples(shown, lambda example, _: _asked(criterion, _lines(example), None), _yes_or_no)
        asked = {"role": "user", "content": _asked(criterion, text, None)}
        return (Ballot([*before, asked], "", ("Yes", "yes"), ("No", "no")),)
    # The second pair of examples has its options swapped, so that (A) is right as often as (B).
    before = _examples(
        shown,
        lambda example, place: _asked(criterion, _lines(example), place >= 2),
        lambda example, place: "(A)" if example.good != (place >= 2) else "(B)",
    )
    made = []
    for swapped in (False, True):
        asked = {"role": "user", "content": _asked(criterion, text, swapped)}
        good, bad = ("B", "A") if swapped else ("A", "B")
        made.append(Ballot([*before, asked], "(", (good,), (bad,)))
    return tuple(made)


def _examples(
    examples: Sequence[Example], ask: Callable[[Example, int], str], reply: Callable[[Example, int], str]
) -> Chat:
    chat: Chat = []
    for place, example in enumerate(examples):
        chat.append({"role": "user", "content": ask(example, place)})
        chat.append({"role": "assistant", "content": reply(example, place)})
    return chat


def _asked(criterion: Criterion, text: str, swapped: bool | None) -> str:
    """The question, its options (``None``: it has none), and the conversation."""
    options = "" if swapped is None else f"\n{_options(criterion, swapped)}"
    return f"{criterion.question}{options}\n\n{text}"


def _lines(example: Example) -> str:
    return f"User: {example.question}\nAssistant: {example.answer}"


def _yes_or_no(example: Example, _: int) -> str:
    return "Yes" if example.good else "No"


def _options(criterion: Criterion, swapped: bool) -> str:
    first, second = (criterion.bad, criterion.good) if swapped else (criterion.good, criterion.bad)
    return f"(A) It is {first}.\n(B) It is {second}."


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))


def label_tokens(encode: Callable[[str], Tokens], opening: str, labels: Sequence[str]) -> tuple[int, ...]:
    """The first token of each label where it follows the opening.

    Token ids are those of this tokenizer, which may write a letter after a parenthesis as another token than
    alone.

    Raises:
        UnsupportedError: the tokenizer joins the opening and the label into one token.
    """
    start = tuple(encode(opening)) if opening else ()
    found: dict[int, None] = {}
    for label in labels:
        whole = tuple(encode(opening + label))
        if len(whole) <= len(start) or whole[: len(start)] != start:
            raise UnsupportedError(
                f"the tokenizer writes {opening + label!r} in one piece, so the model cannot vote",
                hint="give RAIN a judge",
            )
        found[whole[len(start)]] = None
    return tuple(found)


def value_of(replies: Sequence[tuple[float, float]], kind: ValueKind) -> float | None:
    """The value, −1 to 1, of replies given as log-probabilities of the (good, bad) label.

    ``vote``: 2 · mean(1[good > bad]) − 1, the paper's: −1, 0 or 1 with two replies. ``probability``: the same
    with good / (good + bad) in place of the vote. ``None`` where a log-probability is not a number.
    """
    votes = []
    for good, bad in replies:
        if math.isnan(good) or math.isnan(bad) or max(good, bad) == -math.inf:
            return None
        if kind == "vote":
            votes.append(1.0 if good > bad else 0.0)
        else:
            votes.append(1 / (1 + math.exp(min(bad - good, 700.0))))
    return 2 * sum(votes) / len(votes) - 1


def judged_value(score: float, low: float, high: float) -> float:
    """A judge's score as a value: ``low`` is −1, ``high`` is 1, and what lies beyond counts as these."""
    return min(1.0, max(-1.0, 2 * (score - low) / (high - low) - 1))


@dataclass
class SelfEvaluation:
    """Turns an answer into what the model is asked, and its replies into a value.

    Raises:
        UnsupportedError: see ``label_tokens``.
    """

    criterion: Criterion
    kind: ValueKind
    examples: int
    chat: Chat
    encode: Callable[[str], Tokens]
    render: Callable[[Chat], Tokens]
    context_length: int | None
    continues: bool = False
    _labels: dict[tuple[str, tuple[str, ...]], tuple[int, ...]] = field(default_factory=dict)

    def questions(self, answer: str) -> list[tuple[Next, Ballot]]:
        """What to ask of an answer.

        Raises:
            ContextLengthError: a question does not fit the model's context.
        """
        asked = []
        for ballot in ballots(
            self.criterion, self.chat, answer, examples=self.examples, continues=self.continues
        ):
            self._label(ballot.opening, ballot.good, ballot.bad)
            prefix = (*self.render(ballot.chat), *(self.encode(ballot.opening) if ballot.opening else ()))
            if self.context_length is not None and len(prefix) > self.context_length:
                raise ContextLengthError(
                    f"the self-evaluation takes {len(prefix)} tokens, the model's context "
                    f"{self.context_length}",
                    hint=("show fewer examples, " if self.examples else "")
                    + "shorten the prompt, or give RAIN a judge",
                )
            asked.append((Next(prefix, transformed=False), ballot))
        return asked

    def value(self, asked: Sequence[tuple[Next, Ballot]], replies: Sequence[np.ndarray]) -> float | None:
        """The value of the next-token log-probabilities [vocabulary] after each question."""
        pairs = []
        for (_, ballot), reply in zip(asked, replies, strict=True):
            good, bad = (
                float(np.logaddexp.reduce([float(reply[token]) for token in tokens]))
                for tokens in self._label(ballot.opening, ballot.good, ballot.bad)
            )
            pairs.append((good, bad))
        return value_of(pairs, self.kind)

    def _label(
        self, opening: str, good: tuple[str, ...], bad: tuple[str, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Label tokens for good and bad, looked up once."""
        found = []
        for labels in (good, bad):
            key = (opening, labels)
            if key not in self._labels:
                self._labels[key] = label_tokens(self.encode, opening, labels)
            found.append(self._labels[key])
        if set(found[0]) & set(found[1]):
            raise EngineError(f"the labels {good[0]!r} and {bad[0]!r} begin with one token")
        return found[0], found[1]
