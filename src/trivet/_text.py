"""Text from models and data is hostile: what may reach a terminal passes through here."""

import re
import unicodedata

# ESC sequences (CSI, OSC and two-character ones), also with 8-bit introducers.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b\]|\x9d).*?(?:\x07|\x1b\\|\x9c|$)"
    r"|\x1b[PX^_].*?(?:\x1b\\|\x9c|$)"
    r"|\x1b[ -/]*[0-~]",
    re.DOTALL,
)
_KEPT = {"\n", "\t"}


def printable(text: str) -> str:
    """``text`` without control sequences, control characters, bidirectional overrides and lone surrogates.

    Newlines and tabs stay. Removed single characters become U+FFFD so that tampering stays visible.
    """
    text = _ESCAPES.sub("", text)
    return "".join(
        character
        if character in _KEPT
        or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co"}
        or character in {"\u200d", "\u200c"}  # joiners are part of many scripts and of emoji
        else "\ufffd"
        for character in text
    )
