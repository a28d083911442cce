"""Text of models and data inside Markdown, where it must not become markup."""

import re

from trivet._text import printable

_MARKUP = re.compile(r"([\\`*_\[\]<>&#|~!$])")


def one_line(text: str) -> str:
    """The text on one line, without control characters."""
    return " ".join(printable(text).split())


def escaped(text: str) -> str:
    """Plain text without meaning to Markdown or HTML."""
    return _MARKUP.sub(r"\\\1", one_line(text))


def code(text: str) -> str:
    """A code span that the text in it cannot leave."""
    text = one_line(text)
    ticks = "`" * (_longest_run(text) + 1)
    blank = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{ticks}{blank}{text}{blank}{ticks}"


def fenced(text: str, language: str) -> str:
    """``text`` as a code block, with a fence longer than any run of backticks in it."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
