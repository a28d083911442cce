"""The model's side of a lookahead search: which tokens may follow, and how the model would go on greedily.

What was asked once is remembered as long as the search may come back to it. A greedy continuation of ``y`` is
one token longer than that of ``y`` and its own first token, so the branch that was chosen needs one new
token at the next step and not a whole new rollout; and the alternatives of each drawn token say what may
follow there, so that the model is not asked again. All that is asked at a step goes in one batch.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np

from trivet.models.operations import (
    Continuation,
    Extend,
    Next,
    Operation,
    ProgramContext,
    Sampling,
    Several,
    Tokens,
)
from trivet.models.torch_engine.detokenizer import cut

_END = -1  # in place of a token: the model ends its answer here


@dataclass(frozen=True, slots=True)
class Option:
    """A next token. ``logprob``: after penalties and bias; ``own``: under the model's own distribution."""

    token: int
    logprob: float
    own: float


@dataclass(frozen=True, slots=True)
class Following:
    """What may follow a text, best first: ``options`` of the search, ``alternatives`` to report."""

    options: tuple[Option, ...]
    alternatives: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """How the model goes on greedily. ``ended``: it ends its answer there, or a stop string came."""

    tokens: Tokens
    ended: bool


Asking: TypeAlias = Generator[Operation, Any, Any]


class Lookahead:
    """Asks the model about answers to one prompt, given as the tokens that follow it.

    Args:
        context: of the request; its temperature and filters play no part, its penalties and bias do.
        width: options wanted after each text.
    """

    def __init__(self, context: ProgramContext, width: int) -> None:
        self._context, self._width = context, width
        self._sampling = context.sampling.unfiltered()
        self._own = self._sampling == Sampling()  # nothing but the model's own distribution is at work
        self._tops = max(width, context.top_logprobs)
        self._following: dict[Tokens, Following] = {}
        self._greedy: dict[Tokens, int] = {}

    def following(self, answers: Sequence[Tokens]) -> Generator[Operation, Any, list[Following]]:
        """What may follow each answer."""
        unknown = [answer for answer in dict.fromkeys(answers) if answer not in self._following]
        if unknown:
            found = yield from self.wider(unknown, self._width)
            self._following |= dict(zip(unknown, found, strict=True))
        return [self._following[answer] for answer in answers]

    def wider(self, answers: Sequence[Tokens], width: int) -> Generator[Operation, Any, list[Following]]:
        """What may follow each answer, with as many as ``width`` options."""
        kinds = (Sampling(),) if self._own else (self._sampling, Sampling())
        prefixes = [(*self._context.prompt, *answer) for answer in answers]
        asked = tuple(Next(prefix, sampling=kind) for prefix in prefixes for kind in kinds)
        results = yield Several(asked)
        distributions = [result[0] for result in results]
        return [
            self._options(distributions[index], distributions[index + len(kinds) - 1], width)
            for index in range(0, len(distributions), len(kinds))
        ]

    def rollouts(self, wanted: Sequence[tuple[Tokens, int]]) -> Generator[Operation, Any, list[Rollout]]:
        """The greedy continuation of each answer, of at most the given number of tokens."""
        missing: dict[Tokens, int] = {}
        for answer, length in wanted:
            known = self._walk(answer, length)
            if not known.ended and len(known.tokens) < length and not self._stopped(answer, known.tokens):
                missing[(*answer, *known.tokens)] = length - len(known.tokens)
        if missing:
            results = yield Several(
                tuple(
                    Extend(
                        (*self._context.prompt, *answer),
                        length,
                        sampling=self._sampling,
                        stop=self._context.stop,
                        top_logprobs=self._tops if self._own else 0,
                    )
                    for answer, length in missing.items()
                )
            )
            for answer, [continuation] in zip(missing, results, strict=True):
                self._remember(answer, continuation)
        return [self._walk(answer, length) for answer, length in wanted]

    def forget_all_but(self, answers: Iterable[Tokens]) -> None:
        """Forget what does not continue one of ``answers``, where the search will not come back."""
        kept = tuple(answers)

        def goes_on(tokens: Tokens) -> bool:
            return any(tokens[: len(answer)] == answer for answer in kept)

        self._following = {key: value for key, value in self._following.items() if goes_on(key)}
        self._greedy = {key: value for key, value in self._greedy.items() if goes_on(key)}

    def _options(self, adjusted: np.ndarray, own: np.ndarray, width: int) -> Following:
        # The engine returns no more alternatives than there are tokens.
        self._width, self._tops = min(self._width, len(own)), min(self._tops, len(own))
        options = tuple(
            Option(token, float(adjusted[token]), float(own[token]))
            for token in best(adjusted, width)
            if np.isfinite(adjusted[token])
        )
        return Following(options, tuple((token, float(own[token])) for token in best(own, self._tops)))

    def _remember(self, answer: Tokens, continuation: Continuation) -> None:
        for token, tops in zip(continuation.tokens, continuation.top_logprobs or repeat(())):
            self._greedy[answer] = token
            if tops:
                options = tuple(Option(other, log, log) for other, log in tops if np.isfinite(log))
                self._following.setdefault(answer, Following(options[: self._width], tops))
            answer = (*answer, token)
        if continuation.stop_reason in {"stop", "stop_string"}:
            self._greedy[answer] = _END

    def _walk(self, answer: Tokens, length: int) -> Rollout:
        start = len(answer)
        while len(answer) - start < length:
            token = self._greedy.get(answer)
            if token is None:
                break
            if token == _END:
                return Rollout(answer[start:], ended=True)
            answer = (*answer, token)
        return Rollout(answer[start:], ended=False)

    def _stopped(self, answer: Tokens, continuation: Tokens) -> bool:
        if not any(self._context.stop):
            return False
        return cut(self._context.decode((*answer, *continuation)), self._context.stop)[1]


def best(values: np.ndarray, count: int) -> list[int]:
    """Indices of the ``count`` largest of ``values`` [vocabulary], largest first, lower index on ties."""
    if count < len(values):
        edge = np.partition(values, len(values) - count)[len(values) - count]
        indices = np.flatnonzero(values >= edge)
    else:
        indices = np.arange(len(values))
    ordered = indices[np.argsort(-values[indices], kind="stable")]
    return [int(index) for index in ordered[:count]]
