"""The heuristic of a search: h = Σ w·h over several objectives, with what could not be scored kept apart."""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trivet.decode._functions import FunctionCalls, load_function
from trivet.decode._objectives import CannotScoreError, Constraint, Function, Judged, labels
from trivet.errors import ConfigError, TrivetError, UnsupportedError
from trivet.judges.exchange import message_text
from trivet.models.operations import Judge, Operation, ProgramContext, Scorer


@dataclass(frozen=True)
class Text:
    """A text to score: what people see of the answer; ``final``: it will get no longer."""

    content: str
    final: bool


@dataclass(frozen=True)
class Scored:
    """The heuristic of a text. ``values`` are the single objectives', by name, before weights.

    Where one of them has no value ``total`` is ``None`` and ``reason`` says why.
    """

    total: float | None
    values: Mapping[str, float | None]
    reason: str | None = None


@dataclass
class _Running:
    """Mean and deviation of the values seen so far (Welford, 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        distance = value - self.mean
        self.mean += distance / self.count
        self.squares += distance * (value - self.mean)

    def standardised(self, value: float) -> float:
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return (value - self.mean) / deviation if deviation > 0 else 0.0


@dataclass
class Heuristic:
    """Scores texts of one request.

    Args:
        objectives: what to score.
        judges: of the judge objectives, by the objective's name.
        context: of the request.
        normalize: ``running`` standardises parametric values by those seen so far in this request.
    """

    objectives: Sequence[Constraint | Judged | Function]
    judges: Mapping[str, Scorer]
    context: ProgramContext
    normalize: Literal["none", "running"] = "none"
    _known: dict[tuple[str, Text], float | str] = field(default_factory=dict)
    _running: dict[str, _Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._named = list(zip(labels(self.objectives), self.objectives, strict=True))
        prompts = [message_text(message) for message in self.context.chat if message.get("role") == "user"]
        self._prompt = (prompts[-1] if prompts else None) or ""

    def score(self, texts: Sequence[Text]) -> Generator[Operation, Any, list[Scored]]:
        """The heuristic of each text; one ``Judge`` operation for each objective that needs one."""
        for name, objective in self._named:
            if objective.weight:
                # What could not be scored is asked again: the reason may have passed.
                unknown = [
                    text
                    for text in dict.fromkeys(texts)
                    if isinstance(self._known.get((name, text), ""), str)
                ]
                found = yield from self._values(name, objective, unknown)
                self._known |= {(name, text): value for text, value in zip(unknown, found, strict=True)}
        return [self._scored(text) for text in texts]

    def violated(self, text: Text) -> bool:
        """Whether a hard constraint that is computed from the text alone can no longer be met."""
        for _, objective in self._named:
            if isinstance(objective, Constraint) and objective.kind == "hard" and objective.weight:
                try:
                    if objective.state(text.content, final=text.final) == "violated":
                        return True
                except CannotScoreError:
                    pass
        return False

    def satisfied(self, text: Text) -> Generator[Operation, Any, dict[str, bool]]:
        """For each hard objective whether the final ``text`` meets it; not where it cannot be scored."""
        found = {}
        for name, objective in self._named:
            if objective.kind == "hard":
                if (name, text) not in self._known:
                    [self._known[name, text]] = yield from self._values(name, objective, [text])
                found[name] = self._known[name, text] == 0.0
        return found

    def _values(
        self, name: str, objective: Constraint | Judged | Function, texts: Sequence[Text]
    ) -> Generator[Operation, Any, list[float | str]]:
        """Values of one objective, or the reason why there is none."""
        if isinstance(objective, Constraint):
            return [_computed(objective, text) for text in texts]
        asked = [text for text in texts if text.final or objective.kind != "hard"]
        values = yield from self._asked(name, objective, asked)
        answers = dict(zip(asked, values, strict=True))
        found = [answers.get(text, 0.0) for text in texts]  # a hard function is open until the end
        if objective.kind == "parametric":
            running = self._running.setdefault(name, _Running())
            for value in found:
                if not isinstance(value, str):
                    running.add(value)
        return found

    def _asked(
        self, name: str, objective: Judged | Function, texts: Sequence[Text]
    ) -> Generator[Operation, Any, list[float | str]]:
        if not texts:
            return []
        scorer: Scorer
        if isinstance(objective, Judged):
            scorer = self.judges[name]
        else:
            pairs = tuple((text.content, text.final) for text in texts)
            scorer = FunctionCalls(load_function(objective.function), self._prompt, pairs)
        chats = tuple(self.context.answered(text.content) for text in texts)
        try:
            verdicts = yield Judge(scorer, chats)
        except (UnsupportedError, ConfigError):
            raise  # it will never work
        except TrivetError as error:
            return [error.message] * len(texts)
        return [_value(objective, verdict) for verdict in verdicts]

    def _scored(self, text: Text) -> Scored:
        values: dict[str, float | None] = {}
        total, reason = 0.0, None
        for name, objective in self._named:
            if not objective.weight:
                continue
            value = self._known[name, text]
            if isinstance(value, str):
                values[name], reason = None, reason or f"{name}: {value}"
                continue
            values[name] = value
            if objective.kind == "parametric" and self.normalize == "running":
                value = self._running[name].standardised(value)
            # A violated condition is never a merit, whatever the sign of its weight.
            total += (abs(objective.weight) if objective.kind == "hard" else objective.weight) * value
        return Scored(None if reason else total, values, reason)


def _computed(objective: Constraint, text: Text) -> float | str:
    try:
        return objective.value(text.content, final=text.final)
    except CannotScoreError as error:
        return str(error)


def _value(objective: Judged | Function, verdict: Any) -> float | str:
    if verdict.value is None:
        return str(verdict.reason)
    value = float(verdict.value)
    if objective.kind == "hard":
        return 0.0 if value else -1.0
    if objective.kind == "soft" and not 0.0 <= value <= 1.0:
        return f"a soft function gives 0 to 1, not {value:g}"
    return value
