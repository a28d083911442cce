"""Rules on the form of the whole answer: JSON, tables, quotes, titles, one of a few options."""

import json
import re
from typing import Annotated, Any

from pydantic import Field

from trivet.judges.rules.base import Bounded, Rule, Text, Texts
from trivet.judges.rules.segmentation import lines, paragraphs, plain, words

_FENCE = re.compile(r"^```[\w+#.-]*[ \t]*\n(.*?)\n?[ \t]*```$", re.DOTALL)
_DASHES = re.compile(r" *:?-+:? *")
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»"}


def _json(text: str) -> Any:
    """The value of an answer that is one JSON document, bare or as one fenced block; ValueError otherwise."""
    text = text.strip()
    if fenced := _FENCE.match(text):
        text = fenced.group(1)
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class JsonObject(Rule, name="json_object"):
    """The answer is one JSON object, bare or as one fenced code block and nothing beside it.

    It has all of ``keys``, and with ``only`` no other one.
    """

    keys: tuple[Text, ...] = ()
    only: bool = False

    def holds(self, text: str) -> bool:
        try:
            value = _json(text)
        except ValueError:
            return False
        if not isinstance(value, dict) or not set(self.keys) <= set(value):
            return False
        return not self.only or set(value) == set(self.keys)


class JsonList(Bounded, name="json_list"):
    """The answer is one JSON list, bare or as one fenced code block; the number of its items is bounded."""

    def holds(self, text: str) -> bool:
        try:
            value = _json(text)
        except ValueError:
            return False
        return isinstance(value, list) and self.within(len(value))


class Quoted(Rule, name="quoted"):
    """The whole answer stands in one pair of double quotes, straight or typographic, with none inside."""

    def holds(self, text: str) -> bool:
        text = text.strip()
        if len(text) < 3 or text[0] not in _QUOTES or text[-1] != _QUOTES[text[0]]:
            return False
        return not any(mark in text[1:-1] for mark in (text[0], text[-1])) and bool(words(text))


class Title(Rule, name="title"):
    """There is a title in double angular brackets, ``<<so>>``, and it stands before everything else."""

    def holds(self, text: str) -> bool:
        match = re.match(r"[\s#*_]*<<([^<>\n]+)>>", text)
        return match is not None and bool(words(match.group(1)))


class Postscript(Rule, name="postscript"):
    """The last paragraph or the last line starts with ``P.S.`` (also ``PS`` or ``P.S`` and a colon or space)
    and something follows it; something stands before it, too."""

    def holds(self, text: str) -> bool:
        match = re.search(r"^[ \t*_]*P\.?[ ]?S\.?[:,*_\s]", text, re.MULTILINE)
        if not match or not words(text[: match.start()]):
            return False
        return bool(words(text[match.end() :])) and len(paragraphs(text[match.start() :])) == 1


class Table(Bounded, name="table"):
    """There is a Markdown table (header, line of dashes, rows of as many cells); its data rows are bounded.

    With ``columns`` it has exactly so many.
    """

    columns: Annotated[int, Field(ge=1)] | None = None

    def holds(self, text: str) -> bool:
        return any(
            self.within(rows) and (self.columns is None or columns == self.columns)
            for columns, rows in _tables(text)
        )


def _tables(text: str) -> list[tuple[int, int]]:
    """Columns and data rows of each Markdown table."""
    found = []
    given = text.splitlines()
    for index in range(1, len(given)):
        if "|" not in given[index] or not all(map(_DASHES.fullmatch, _cells(given[index]))):
            continue
        columns = len(_cells(given[index]))
        if "|" not in given[index - 1] or len(_cells(given[index - 1])) != columns:
            continue
        rows = 0
        for line in given[index + 1 :]:
            if "|" not in line or len(_cells(line)) != columns:
                break
            rows += 1
        found.append((columns, rows))
    return found


def _cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))


class CodeBlock(Rule, name="code_block"):
    """There is a fenced code block that is not empty; with ``language`` its fence names it."""

    language: Text | None = None

    def holds(self, text: str) -> bool:
        blocks = re.findall(
            r"^[ \t]*```[ \t]*([^\s`]*)[^\n`]*\n(.*?)^[ \t]*```", text, re.DOTALL | re.MULTILINE
        )
        return any(
            code.strip() and (self.language is None or name.casefold() == self.language.casefold())
            for name, code in blocks
        )


class OneOf(Rule, name="one_of"):
    """The answer is one of ``options`` and nothing else.

    Case of letters, quotes, emphasis and brackets around it, and a final mark do not count.
    """

    options: Annotated[Texts, Field(min_length=2)]

    def holds(self, text: str) -> bool:
        return _bare(text) in {_bare(option) for option in self.options}


def _bare(text: str) -> str:
    return " ".join(plain(text).casefold().split()).strip("\"'*_`()[] .!,:;")


class NumberOnly(Rule, name="number_only"):
    """The answer is one number in figures and nothing else (a final full stop is allowed), in [minimum,
    maximum]."""

    minimum: float | None = None
    maximum: float | None = None

    def holds(self, text: str) -> bool:
        match = re.fullmatch(r"[*_\s]*([-+−]?\d+(?:,\d{3})*(?:\.\d+)?)[.*_\s]*", text)
        if not match:
            return False
        value = float(match.group(1).replace(",", "").replace("−", "-"))
        return (self.minimum is None or value >= self.minimum) and (
            self.maximum is None or value <= self.maximum
        )


class LabelledLines(Rule, name="labelled_lines"):
    """The lines that are not blank are as many as ``labels``, and each starts with its label and a colon, in
    that order and in any case of letters; something follows each colon."""

    labels: Texts

    def holds(self, text: str) -> bool:
        given = [re.sub(r"[*_]", "", line).strip() for line in lines(text)]
        return len(given) == len(self.labels) and all(
            re.match(re.escape(plain(label)) + r"\s*:\s*\S", plain(line), re.IGNORECASE)
            for label, line in zip(self.labels, given, strict=True)
        )
