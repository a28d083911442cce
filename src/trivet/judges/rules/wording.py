"""Rules on which words and characters an answer holds, and where."""

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import Field

from trivet.judges.rules.base import Rule, Text, Texts
from trivet.judges.rules.segmentation import bullets, lines, numbered, occurrences, plain, words

_OPENING = "\"'*_ \t\n"
_CLOSING = "\"'*_.!?… \t\n)"


def _folded(text: str) -> str:
    return " ".join(plain(text).casefold().split())


class Includes(Rule, name="includes"):
    """Every one of ``words`` (words or phrases) stands in the answer as a whole, in any case of letters."""

    words: Texts

    def holds(self, text: str) -> bool:
        return all(occurrences(text, word) for word in self.words)


class Excludes(Rule, name="excludes"):
    """None of ``words`` (words or phrases) stands in the answer as whole words, in any case of letters."""

    words: Texts

    def holds(self, text: str) -> bool:
        return not any(occurrences(text, word) for word in self.words)


class ExcludesCharacters(Rule, name="excludes_characters"):
    """None of ``characters`` stands in the answer; letters count as capital and small. ``0-9`` as one string
    of digits forbids figures."""

    characters: Annotated[str, Field(min_length=1)]

    def holds(self, text: str) -> bool:
        folded = plain(text).casefold()
        return not any(character in folded for character in plain(self.characters).casefold())


class StartsWith(Rule, name="starts_with"):
    """The answer starts with ``text``, as whole words, in any case of letters.

    White space, and quotes and Markdown emphasis that ``text`` does not itself start with, are skipped.
    """

    text: Text

    def holds(self, text: str) -> bool:
        wanted, given = _folded(self.text), _folded(text)
        given = given.lstrip(_OPENING.replace(wanted[0], ""))
        if not given.startswith(wanted):
            return False
        follows = given[len(wanted) :][:1]
        return not (wanted[-1].isalnum() and follows.isalnum())


class EndsWith(Rule, name="ends_with"):
    """The answer ends with ``text``, as whole words, in any case of letters.

    Where ``text`` ends in a letter or digit, final punctuation, quotes and emphasis after it are skipped.
    """

    text: Text

    def holds(self, text: str) -> bool:
        wanted, given = _folded(self.text), _folded(text)
        given = given.rstrip(_CLOSING) if wanted[-1].isalnum() else given.rstrip(_OPENING)
        if not given.endswith(wanted):
            return False
        precedes = given[: len(given) - len(wanted)][-1:]
        return not (wanted[0].isalnum() and precedes.isalnum())


class LinesStartWith(Rule, name="lines_start_with"):
    """Every line that is not blank starts with ``text``, as whole words, in any case of letters; two lines at
    least, unless the answer is to have one. List markers, quotes and emphasis before it are skipped."""

    text: Text
    minimum: Annotated[int, Field(ge=1)] = 2

    def holds(self, text: str) -> bool:
        rule = StartsWith(text=self.text)
        given = [_without_marker(line) for line in lines(text)]
        return len(given) >= self.minimum and all(rule.holds(line) for line in given)


class Acrostic(Rule, name="acrostic"):
    """The first letters of the lines that are not blank spell ``word``, in any case of letters."""

    word: Annotated[str, Field(pattern=r"^[^\W\d_]{2,}$")]

    def holds(self, text: str) -> bool:
        first = [next((c for c in plain(line) if c.isalpha()), "") for line in lines(text)]
        return "".join(first).casefold() == self.word.casefold()


class LinesSorted(Rule, name="lines_sorted"):
    """The items are in alphabetical order, two at least: the bulleted or numbered ones where there are any,
    else the lines. Case of letters, list markers and emphasis do not count."""

    def holds(self, text: str) -> bool:
        items = [item for _, item in numbered(text)] or bullets(text) or lines(text)
        keys = [" ".join(words(plain(item).casefold())) for item in items]
        return len(keys) >= 2 and all(keys) and keys == sorted(keys)


class AllLowercase(Rule, name="all_lowercase"):
    """There are letters and none is a capital."""

    def holds(self, text: str) -> bool:
        return any(map(str.islower, text)) and not any(
            character.isupper() or unicodedata.category(character) == "Lt" for character in text
        )


class AllUppercase(Rule, name="all_uppercase"):
    """There are letters and none is small."""

    def holds(self, text: str) -> bool:
        return any(map(str.isupper, text)) and not any(map(str.islower, text))


class Script(Rule, name="script"):
    """Every letter belongs to ``script``, and there is one; figures and signs are free.

    A script is decided letter by letter from Unicode's names; a language could only be guessed, and so there
    is no rule for it. ``japanese`` is Han with both kana.
    """

    script: Literal[
        "latin", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "han", "hangul", "japanese"
    ]

    def holds(self, text: str) -> bool:
        prefixes = {
            "han": ("CJK UNIFIED", "CJK COMPATIBILITY", "IDEOGRAPHIC"),
            "japanese": ("CJK UNIFIED", "CJK COMPATIBILITY", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA"),
        }.get(self.script, (self.script.upper() + " ",))
        letters = [character for character in unicodedata.normalize("NFKC", text) if character.isalpha()]
        return bool(letters) and all(unicodedata.name(letter, "").startswith(prefixes) for letter in letters)


def _without_marker(line: str) -> str:
    return re.sub(r"^\s*(?:[-*+•‣–]|\d+[.)])\s+", "", line)
