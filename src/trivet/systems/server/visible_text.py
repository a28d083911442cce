"""What of an answer may be shown while it is still being written.

Only what the engine has released comes here, so nothing is shown before its gate. Reasoning goes apart. Where
tools were offered, text that may turn out to be a tool call is held back until the answer is there.
"""

from trivet.models.reasoning import Part, ReasoningMarkers, ReasoningStream
from trivet.systems.answer import Answer

_CALLS = ("<tool_call>", "[TOOL_CALLS]")
_WHOLE = ("{", "[", "<|python_tag|>")  # an answer that begins so may be a call as a whole


class VisibleText:
    """The parts of one streamed answer; together they are the text and reasoning of the ``Answer``, but for
    white space before their first word.

    The one exception: where the model ends a reasoning block that neither it nor the prompt had begun, only
    the whole answer tells, and the reasoning has been shown as text.

    Args:
        markers: of reasoning blocks.
        opened: the prompt ends inside a reasoning block.
        tools: tools were offered.
    """

    def __init__(self, markers: ReasoningMarkers | None, *, opened: bool, tools: bool) -> None:
        self._plain = markers is None and not tools
        self._stream = ReasoningStream(markers, inside=opened)
        self._held: dict[Part, _Held] = {"reasoning": _Held(tools=False), "text": _Held(tools=tools)}

    def feed(self, piece: str) -> list[tuple[Part, str]]:
        """The next parts, given the next piece of the answer's raw text."""
        if self._plain:
            return [("text", self._held["text"].show(piece))]
        return self._parts(self._stream.feed(piece))

    def finish(self, answer: Answer) -> list[tuple[Part, str]]:
        """What has not been shown yet, at the end."""
        parts = self._parts(self._stream.finish())
        whole: dict[Part, str] = {"reasoning": answer.reasoning or "", "text": answer.text}
        rest = [(part, self._held[part].rest(text)) for part, text in whole.items()]
        return parts + [(part, text) for part, text in rest if text]

    def _parts(self, parts: list[tuple[Part, str]]) -> list[tuple[Part, str]]:
        shown = [(part, self._held[part].feed(text)) for part, text in parts]
        return [(part, text) for part, text in shown if text]


class _Held:
    """Shows text as it comes, but for white space at its ends, which the whole answer may not have, and for
    what may be a tool call.

    Args:
        tools: text may be a tool call.
    """

    def __init__(self, *, tools: bool) -> None:
        self._tools = tools
        self._shown, self._held = "", ""

    def show(self, text: str) -> str:
        self._shown += text
        return text

    def feed(self, text: str) -> str:
        self._held += text
        if not self._shown:
            self._held = self._held.lstrip()
        ready = len(self._held.rstrip())
        if self._tools:
            ready = min(ready, self._before_call())
        piece, self._held = self._held[:ready], self._held[ready:]
        return self.show(piece)

    def rest(self, whole: str) -> str:
        """What of ``whole`` was not shown."""
        for text in (whole, whole.lstrip()):
            if text.startswith(self._shown):
                return text[len(self._shown) :]
        return self._held

    def _before_call(self) -> int:
        """Characters of the held text that cannot belong to a call."""
        text = self._held
        if not self._shown and any(mark.startswith(text) or text.startswith(mark) for mark in _WHOLE):
            return 0
        found = [text.find(mark) for mark in _CALLS if mark in text]
        if found:
            return len(text[: min(found)].rstrip())
        for length in range(min(len(text), max(map(len, _CALLS)) - 1), 0, -1):
            if any(mark.startswith(text[-length:]) for mark in _CALLS):
                return len(text[:-length].rstrip())
        return len(text)
