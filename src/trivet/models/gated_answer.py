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

    def append(self, text: str) -> None:
        """Commit more text; afterwards ``blocked`` says whether a gate ended the answer."""
        self.text += text
        self._release(final=False)

    def add(self, continuation: Continuation, *, already_appended: bool = False) -> None:
        """Commit a continuation; its text was appended before where it was streamed."""
        self._parts.append(continuation)
        if not already_appended:
            self.append(continuation.text)

    def finish(self) -> tuple[str, Continuation]:
        """Pass the rest through the gates and join all that was committed."""
        if not self.blocked:
            self._release(final=True)
        stop_reason: StopReason = "blocked" if self.blocked else "stop"
        if not self.blocked and self._parts:
            stop_reason = self._parts[-1].stop_reason
        joined = Continuation(
            tokens=tuple(token for part in self._parts for token in part.tokens),
            text=self.text,
            logprobs=tuple(value for part in self._parts for value in part.logprobs),
            stop_reason=stop_reason,
            top_logprobs=tuple(row for part in self._parts for row in part.top_logprobs),
            tool_calls=tuple(call for part in self._parts for call in part.tool_calls),
        )
        return self.text, joined

    def _release(self, *, final: bool) -> None:
        if self.blocked:
            return
        released = len(self.text)
        for gate in self._request.hooks.gates:
            try:
                decision = gate(self._request.chat, self.text, final)
            except Exception:  # a gate that fails blocks; what it raised must not reach the answer
                self._block(self._shown, None)
                return
            released = min(released, decision.release)
            if decision.stop:
                self._block(released, decision.replacement)
                return
        self._show(released)

    def _block(self, released: int, replacement: str | None) -> None:
        self._show(max(released, self._shown))
        self.text = self.text[: self._shown]
        self.blocked = True
        if replacement:
            self.text += replacement
            self._show(len(self.text))

    def _show(self, until: int) -> None:
        piece, self._shown = self.text[self._shown : until], max(until, self._shown)
        if piece and self._request.on_text is not None:
            self._request.on_text(piece)
