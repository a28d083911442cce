"""``/v1/completions``: plain text is continued as it stands, without a chat template.

That is the bare model's work. A system prompt, a decoding method or a guard is made for answers to a chat and
would be left out or mean something else, so a system that has one is refused.
"""

from collections.abc import Callable
from typing import Any

from trivet.errors import UnsupportedError
from trivet.models.engine import Completion, Request
from trivet.models.operations import Program, ProgramContext
from trivet.systems.answer import Answer, make_answer
from trivet.systems.checks import besides_the_model, takes_tokens
from trivet.systems.server.reply import FINISH_REASONS, Reply, logprob
from trivet.systems.server.requests import CompletionRequest
from trivet.systems.system import System
from trivet.systems.waiting import Pending


class TextReply(Reply):
    """Continuations of plain texts."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"
    request: CompletionRequest

    def __init__(self, system: System, request: CompletionRequest) -> None:
        check_plain(system)
        super().__init__(system, request)

    @property
    def count(self) -> int:
        """``n`` for each prompt."""
        return self.request.n * len(self.request.prompt)

    @property
    def prompts(self) -> int:
        """Texts to be continued."""
        return len(self.request.prompt)

    def submit(self, index: int, on_text: Callable[[str], None] | None) -> Pending[Answer]:
        """Submit the continuation of this number."""
        request, system = self.request, self.system
        decode: list[Callable[..., str]] = []

        def program(context: ProgramContext) -> Program:
            decode.append(context.decode)
            made: Program = system.decoding.make(context)  # plain sampling: see check_plain
            return made

        def finish(completion: Completion) -> Answer:
            return make_answer(
                completion,
                system=system.identity,
                markers=None,
                opened=False,
                decode=decode[0] if decode else None,
                tools=(),
            )

        handle = system.engine.submit(
            Request(
                chat=[],
                text=request.prompt[index // request.n],
                program=program,
                seed=self.seed(index),
                max_tokens=self.max_tokens(request.limit),
                sampling=system.sampling(request.sampling),
                stop=tuple(request.stop),
                top_logprobs=request.logprobs or 0,
                on_text=on_text,
            )
        )
        return Pending(handle, finish)

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """A continuation as a choice of the whole response."""
        return self._last(index, answer, answer.text)

    def first_choice(self, index: int) -> None:
        """Text comes at once."""
        return

    def pieces(self, index: int, text: str, *, opened: bool) -> list[dict[str, Any]]:
        """The text as it comes."""
        return [{"index": index, "text": text, "logprobs": None, "finish_reason": None}]

    def last_pieces(self, index: int, answer: Answer, *, opened: bool) -> list[dict[str, Any]]:
        """Log-probabilities of all tokens, and the reason."""
        return [self._last(index, answer, "")]

    def _last(self, index: int, answer: Answer, text: str) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(answer),
            "finish_reason": FINISH_REASONS[answer.stop_reason],
            **self.extension(answer),
        }

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        decode = answer.decode
        if self.request.logprobs is None or decode is None:
            return None
        continuation = answer.continuation
        tokens = [decode((token,)) for token in continuation.tokens]
        offsets, position = [], 0
        for token in tokens:
            offsets.append(position)
            position += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [logprob(value) for value in continuation.logprobs[: len(tokens)]],
            "top_logprobs": [
                {decode((other,)): logprob(value) for other, value in row}
                for row in continuation.top_logprobs
            ]
            or None,
            "text_offset": offsets,
        }


def check_plain(system: System) -> None:
    """Refuse a system that is more than a model, or an engine that only takes chats.

    Raises:
        UnsupportedError: names what stands in the way.
    """
    extra = besides_the_model(system)
    if system.spec.system_prompt:
        extra.append("a system prompt")
    if extra:
        raise UnsupportedError(
            f"/v1/completions continues plain text with the bare model, and this system has "
            f"{' and '.join(extra)}",
            where=system.name,
            hint="use /v1/chat/completions",
        )
    if not takes_tokens(system.engine):
        raise UnsupportedError(
            "/v1/completions: this system's engine takes chats, not plain text",
            where=system.name,
            hint="use /v1/chat/completions",
        )
