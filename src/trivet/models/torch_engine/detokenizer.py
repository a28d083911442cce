"""Text from tokens as they come: no broken characters, no text that may still become a stop string."""

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"  # what decoding gives for bytes of a character that is not whole yet


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """``text`` before the first of the stop strings, and whether there is one."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


class Detokenizer:
    """Turns a growing list of tokens into text.

    Args:
        decode: text of token ids, without special tokens.
        stop: strings that end the text; it is cut before the first of them.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(string for string in stop if string)
        self._tokens: list[int] = []
        # Only a window is decoded again at each token: from before the last whole piece, since some
        # tokenizers write a token differently at the start of a text.
        self._window = 0
        self._read = 0
        self._whole = ""
        self._given = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """All text so far, cut before a stop string."""
        return self._whole

    def add(self, token: int) -> str:
        """The text that is certain now and was not before; may be empty."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._window : self._read])
        after = self._decode(self._tokens[self._window :])
        if len(after) <= len(before) or after.endswith(_BROKEN):
            return ""
        self._window, self._read = self._read, len(self._tokens)
        return self._append(after[len(before) :], final=False)

    def finish(self) -> str:
        """The text that was held back."""
        if self.stopped:
            return ""
        before = self._decode(self._tokens[self._window : self._read])
        after = self._decode(self._tokens[self._window :])
        return self._append(after[len(before) :], final=True)

    def _append(self, piece: str, *, final: bool) -> str:
        searched = max(0, len(self._whole) - max(map(len, self._stop), default=0))
        self._whole += piece
        found = [place for string in self._stop if (place := self._whole.find(string, searched)) >= 0]
        if found:
            self.stopped = True
            self._whole = self._whole[: min(found)]
        certain = len(self._whole) - (0 if final or self.stopped else self._undecided())
        given, self._given = self._given, max(self._given, certain)
        return self._whole[given:certain]

    def _undecided(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for string in self._stop:
            for length in range(min(len(string) - 1, len(self._whole)), longest, -1):
                if self._whole.endswith(string[:length]):
                    longest = length
                    break
        return longest
