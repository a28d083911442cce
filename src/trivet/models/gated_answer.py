"""The answer of one request as its program commits it, behind its commit gates."""

from trivet.models.engine import Request
from trivet.models.operations import Continuation, StopReason


class GatedAnswer:
    """What a request has committed so far, and how much of it its gates have released."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._parts: list[Continuation] = []
        self._shown = 0
        self.text = ""
        self.blocked = False

    @property
    def token_count(self) -> int:
        """Tokens that were committed, those that a gate kept back included."""
        return sum(len(part.tokens) for part in self._parts)

    def append(self, text: str) -> None:
        """Commit more text; afterwards ``blocked`` says whether a gate ended the answer.

        What comes after a gate has ended it is dropped.
        """
        if not self.blocked:
            self.text += text
            self._release(final=False)

    def add(self, continuation: Continuation, *, already_appended: bool = False) -> None:
        """Commit a continuation; its text was appended before where it was streamed."""
        self._parts.append(continuation)
        if not already_appended:
            self.append(continuation.text)

    def finish(self) -> tuple[str, Continuation]:
        """Pass the rest through the gates and join all that was committed.

        Of a blocked answer only the released text is given: its tokens and their alternatives would show
        what the gate kept back.
        """
        if not self.blocked:
            self._release(final=True)
        if not self.blocked and self._shown < len(self.text):  # the last word was not to release it
            self._block(self._shown, None)
        if self.blocked:
            return self.text, Continuation((), self.text, (), "blocked")
        stop_reason: StopReason = self._parts[-1].stop_reason if self._parts else "stop"
        joined = Continuation(
            tokens=tuple(token for part in self._parts for token in part.tokens),
            text=self.text,
            logprobs=tuple(value for part in self._parts for value in part.logprobs),
            stop_reason=stop_reason,
            top_logprobs=tuple(row for part in self._parts for row in part.top_logprobs),
            tool_calls=tuple(call for part in self._parts for call in part.tool_calls),
            end_token=self._parts[-1].end_token if self._parts else None,
        )
        return self.text, joined

    def _release(self, *, final: bool) -> None:
        released = len(self.text)
        for gate in self._request.hooks.gates:
            try:
                decision = gate(self._request.chat, self.text, final)
                released = min(released, decision.release)
            except Exception:  # a gate that fails blocks; what it raised must not reach the answer
                self._block(self._shown, None)
                return
            if decision.stop:
                self._block(released, decision.replacement)
                return
        self._show(released)

    def _block(self, released: int, replacement: str | None) -> None:
        self._show(released)
        self.text = self.text[: self._shown]
        self.blocked = True
        if replacement:
            self.text += replacement
            self._show(len(self.text))

    def _show(self, until: int) -> None:
        until = max(until, self._shown)  # what was shown cannot be taken back
        piece, self._shown = self.text[self._shown : until], until
        if piece and self._request.on_text is not None:
            self._request.on_text(piece)
