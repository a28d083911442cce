"""Reasoning blocks: the part of an answer that a model thinks to itself, between two markers.

What lies in a block is counted as tokens, shown apart, and never judged.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Part = Literal["reasoning", "text"]


class Separated(NamedTuple):
    """An answer without its reasoning, the reasoning (``None`` where there is none), and where it ends.

    ``closed`` is false where the last block was cut off, e.g. by ``max_tokens``. ``spans`` are the character
    ranges of the raw text that are reasoning, markers included.
    """

    text: str
    reasoning: str | None
    closed: bool
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ReasoningMarkers:
    """The two strings around a reasoning block, e.g. ``<think>`` and ``</think>``."""

    start: str
    end: str

    def separate(self, raw: str, *, opened: bool = False) -> Separated:
        """Take the reasoning out of ``raw``.

        A block that is never closed is reasoning to its end. ``opened``: the prompt ends inside a block, as
        the chat templates of some reasoning models leave it; so does a text whose first marker is an end.
        """
        first_start, first_end = raw.find(self.start), raw.find(self.end)
        inside = opened or (first_end >= 0 and (first_start < 0 or first_end < first_start))
        if opened and first_start >= 0 and not raw[:first_start].strip():
            inside = False  # the model repeats the marker that the prompt had opened
        position, begun = 0, 0
        spans: list[tuple[int, int]] = []
        texts: list[str] = []
        thoughts: list[str] = []
        while True:
            marker = self.end if inside else self.start
            found = raw.find(marker, position)
            stop = found if found >= 0 else len(raw)
            (thoughts if inside else texts).append(raw[position:stop])
            if found < 0:
                break
            position = found + len(marker)
            if inside:
                spans.append((begun, position))
            else:
                begun = found
            inside = not inside
        if inside:
            spans.append((begun, len(raw)))
        if not spans:
            return Separated(raw, None, True, ())
        reasoning = "\n".join(thought.strip() for thought in thoughts if thought.strip())
        return Separated("".join(texts).strip(), reasoning, not inside, tuple(spans))


@dataclass
class ReasoningStream:
    """Separates a streamed answer as it comes; a piece that may be the beginning of a marker is held back.

    With no markers everything is text.
    """

    markers: ReasoningMarkers | None
    inside: bool = False
    _held: str = field(default="", init=False)

    def feed(self, piece: str) -> list[tuple[Part, str]]:
        """The next parts, in order, given the next piece of the answer."""
        if self.markers is None:
            return [("text", piece)] if piece else []
        parts: list[tuple[Part, str]] = []
        self._held += piece
        while True:
            marker = self.markers.end if self.inside else self.markers.start
            before, found, after = self._held.partition(marker)
            if found:
                self._give(parts, before)
                self.inside, self._held = not self.inside, after
                continue
            keep = _overlap(self._held, marker)
            self._give(parts, self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
            return parts

    def finish(self) -> list[tuple[Part, str]]:
        """What was held back, at the end of the answer."""
        parts: list[tuple[Part, str]] = []
        self._give(parts, self._held)
        self._held = ""
        return parts

    def _give(self, parts: list[tuple[Part, str]], text: str) -> None:
        if text:
            parts.append(("reasoning" if self.inside else "text", text))


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``marker``."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
