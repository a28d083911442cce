"""The answers of one request in the form of an endpoint of OpenAI's API."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from trivet._files import sha256_text
from trivet.errors import UnsupportedError
from trivet.models.operations import StopReason
from trivet.systems.answer import Answer
from trivet.systems.checks import takes_tokens
from trivet.systems.server.requests import Generation
from trivet.systems.system import System
from trivet.systems.waiting import Pending

FINISH_REASONS: dict[StopReason, str] = {
    "stop": "stop",
    "stop_string": "stop",
    "length": "length",
    "context": "length",
    "blocked": "content_filter",
}
_LEAST_LOGPROB = -9999.0  # OpenAI's value for what is all but impossible; JSON has no infinity


class Reply(ABC):
    """Submits the answers that a request asks for, and puts them into the endpoint's form.

    Args:
        system: that answers.
        request: what is asked for.

    Raises:
        UnsupportedError: the system or its engine cannot do it faithfully.
    """

    prefix = ""  # of ids
    whole_object = ""
    chunk_object = ""

    def __init__(self, system: System, request: Generation) -> None:
        self.system = system
        self.request = request
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._seed = secrets.randbelow(2**53) if request.seed is None else request.seed
        _check(system, request)

    @property
    @abstractmethod
    def count(self) -> int:
        """Answers that are asked for."""

    @property
    def prompts(self) -> int:
        """Prompts among them; the answers of a prompt follow one another."""
        return 1

    @abstractmethod
    def submit(self, index: int, on_text: Callable[[str], None] | None) -> Pending[Answer]:
        """Submit the answer of this number."""

    @abstractmethod
    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """An answer as a choice of the whole response."""

    @abstractmethod
    def first_choice(self, index: int) -> dict[str, Any] | None:
        """The choice of the first chunk of an answer, where there is one before its text."""

    @abstractmethod
    def pieces(self, index: int, text: str, *, opened: bool) -> list[dict[str, Any]]:
        """Choices of chunks for the next piece of an answer's raw text.

        ``opened``: the prompt ends inside a reasoning block.
        """

    @abstractmethod
    def last_pieces(self, index: int, answer: Answer, *, opened: bool) -> list[dict[str, Any]]:
        """Choices of the last chunks of an answer; the very last one says why it ended."""

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The response that is not streamed."""
        choices = [self.choice(index, answer) for index, answer in enumerate(answers)]
        return {**self._head(self.whole_object), "choices": choices, "usage": self.usage(answers)}

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """One chunk of a stream."""
        body = {**self._head(self.chunk_object), "choices": choices}
        return {**body, "usage": usage} if self.request.include_usage else body

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self.system.name,
            "system_fingerprint": self.system.hash12,
        }

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Tokens of the request; a prompt with several choices counts once, as in OpenAI's API."""
        each = len(answers) // self.prompts
        prompt = sum(answer.usage.prompt_tokens for answer in answers[::each])
        completion = sum(answer.usage.completion_tokens for answer in answers)
        cached = sum(
            min(answer.usage.cached_tokens, answer.usage.prompt_tokens) for answer in answers[::each]
        )
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        reasoning = [answer.reasoning_tokens for answer in answers]
        if None not in reasoning:
            usage["completion_tokens_details"] = {"reasoning_tokens": sum(filter(None, reasoning))}
        return usage

    def extension(self, answer: Answer) -> dict[str, Any]:
        """``{"trivet": …}`` where the request asks for the trace and costs of an answer."""
        if not self.request.trivet.trace:
            return {}
        return {
            "trivet": {
                "trace": list(answer.trace),
                "forward_tokens": answer.usage.forward_tokens,
                "judge_calls": answer.usage.judge_calls,
                "seconds": round(answer.seconds, 4),
            }
        }

    def seed(self, index: int) -> int:
        """The seed of an answer: the request's own for the first, hashed from it for the others."""
        return self._seed if index == 0 else int(sha256_text(f"{self._seed}|{index}")[:13], 16)

    def max_tokens(self, limit: int | None) -> int:
        """Tokens of an answer; more than the context holds cannot come."""
        asked = self.system.spec.max_tokens if limit is None else limit
        context = self.system.engine.capabilities.context_length
        return asked if context is None else min(asked, context)


def _check(system: System, request: Generation) -> None:
    engine = system.engine
    kind = engine.description.get("engine", "chosen")
    if request.seed is not None and not engine.capabilities.seed:
        raise UnsupportedError(f"the {kind} engine does not honour seed", hint="leave seed out")
    if getattr(request, "logprobs", None) not in (None, False) and not takes_tokens(engine):
        raise UnsupportedError(
            f"logprobs: the {kind} engine shows no tokens", hint="use the PyTorch engine (engine: torch)"
        )
    if request.trivet.trace and system.guards:
        raise UnsupportedError(
            "trivet.trace: a trace may show text that the system's guards keep back",
            hint="leave it out, or ask a system without guards",
        )


def logprob(value: float) -> float:
    """A log-probability (natural logarithm) as JSON can hold it."""
    return max(value, _LEAST_LOGPROB)
