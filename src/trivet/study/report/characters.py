"""Characters of hostile text that act without being seen are shown in place of being obeyed."""

import re
import sys
import unicodedata

_KEPT = {"\n", "\t", "\u200c", "\u200d"}  # the joiners are part of many scripts and of emoji
_HIDDEN_KINDS = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def _character_class() -> str:
    """A regular-expression class of all characters of the hidden kinds, as ranges."""
    ranges: list[list[int]] = []
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        if unicodedata.category(character) not in _HIDDEN_KINDS or character in _KEPT:
            continue
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)


_hidden: re.Pattern[str] | None = None


def visible(text: str) -> str:
    """``text`` with control characters, bidirectional controls, lone surrogates and other unseen characters
    shown: ``␛`` for ESC, ``␀`` for NUL, ``[U+202E]`` for a right-to-left override.

    Newlines (also ``\\r\\n``), tabs and joiners stay.
    """
    global _hidden
    if text.isascii() and text.isprintable():
        return text
    if _hidden is None:  # going through Unicode takes a moment, so only when it is needed
        _hidden = re.compile(f"[{_character_class()}]")
    return _hidden.sub(_shown, text.replace("\r\n", "\n"))


def _shown(match: re.Match[str]) -> str:
    point = ord(match[0])
    if point < 0x20:
        return chr(0x2400 + point)
    if point == 0x7F:
        return "\u2421"
    return f"[U+{point:04X}]"
