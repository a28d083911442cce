"""An answer that a program draws token by token: its text, and when it ends.

For methods whose next token comes from a distribution of their own making, where the engine's ``Extend``
cannot draw it. Tokens end an answer as they do there: end-of-sequence, a stop string, ``max_tokens``, a full
context.
"""

from collections.abc import Sequence

from trivet.models.operations import Continuation, ProgramContext, StopReason
from trivet.models.torch_engine.detokenizer import Detokenizer
from trivet.models.torch_engine.sampling import Drawn


class Answer:
    """The answer so far. ``tokens`` excludes the end-of-sequence token; ``ended`` once nothing may follow."""

    def __init__(self, context: ProgramContext) -> None:
        self.tokens: list[int] = []
        self.ended = False
        self._context = context
        self._most, self._reason = context.limit
        self._text = Detokenizer(context.decode, context.stop)

    @property
    def room(self) -> int:
        """Tokens that may still come."""
        return self._most - len(self.tokens)

    def add(self, drawn: Sequence[Drawn]) -> Continuation:
        """Take tokens until one ends the answer; what follows that one is left out."""
        tokens: list[int] = []
        logprobs: list[float] = []
        tops: list[tuple[tuple[int, float], ...]] = []
        text, reason, end_token = "", self._limit(), None
        for one in drawn:
            if reason is not None:
                break
            logprobs.append(one.logprob)
            if one.token in self._context.eos:
                reason, end_token = "stop", one.token
                break
            tokens.append(one.token)
            tops.append(one.top_logprobs)
            self.tokens.append(one.token)
            text += self._text.add(one.token)
            reason = "stop_string" if self._text.stopped else self._limit()
        return self._part(tokens, text, logprobs, reason, tops, end_token)

    def end(self, reason: StopReason) -> Continuation:
        """End it here, with the text that was held back."""
        return self._part([], "", [], reason, [])

    def _part(
        self,
        tokens: list[int],
        text: str,
        logprobs: list[float],
        reason: StopReason | None,
        tops: list[tuple[tuple[int, float], ...]],
        end_token: int | None = None,
    ) -> Continuation:
        if reason is not None:
            self.ended = True
            text += self._text.finish()
            # A stop string may only complete with the bytes held back until the end.
            reason = "stop_string" if self._text.stopped else reason
        shown = tuple(tops) if self._context.top_logprobs else ()
        return Continuation(
            tuple(tokens), text, tuple(logprobs), reason or "length", shown, end_token=end_token
        )

    def _limit(self) -> StopReason | None:
        return self._reason if self.room <= 0 else None
