"""How the instruction rules cut a text: words, sentences, paragraphs, lines, list items, phrases.

The cuts follow what a reader would count, not a tokenizer:

- a *word* is a run of letters or digits; inner apostrophes, hyphens and the separators inside a number keep
  it together (``don't``, ``well-known`` and ``3,500.5`` are one word each); Markdown signs are no words;
- a *sentence* ends at ``.``, ``!``, ``?`` or ``…`` (with closing quotes or brackets) before white space or
  the end, at a blank line, and before a list item; common abbreviations and initials do not end one; what
  is left without a final mark counts where it holds a word;
- a *paragraph* is a block between blank lines that holds a word;
- a *line* is one that is not blank.
"""

import re
import unicodedata

_WORD = re.compile(r"\d+(?:[.,:]\d+)+|[^\W_]+(?:['’\-‑][^\W_]+)*")
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "cf", "approx"})
# These may also be the last word of a sentence: they are where a capital follows.
_ABBREVIATIONS_ALSO_LAST = frozenset({"etc", "a.m", "p.m", "u.s", "u.k", "inc", "ltd", "jr", "sr", "ph.d"})
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’»)\]*_]*(?=\s|$)|[。！？]+")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+•‣–]|\d+[.)])\s+\S")
_BULLET = re.compile(r"^\s*[-*+•‣–]\s(.*)$")
_NUMBERED = re.compile(r"^ {0,3}(?:\*\*)?(\d{1,6})[.)]\s(.*)$")
_TYPOGRAPHIC = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "‑": "-", "\u00a0": " "})


def plain(text: str) -> str:
    """``text`` in Unicode's composed compatibility form with straight quotes, plain hyphens and spaces."""
    return unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHIC)


def words(text: str) -> list[str]:
    """The words of ``text``, in order, as written."""
    return _WORD.findall(text)


def lines(text: str) -> list[str]:
    """The lines of ``text`` that are not blank, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def paragraphs(text: str) -> list[str]:
    """Blocks of ``text`` between blank lines that hold a word, stripped."""
    blocks = re.split(r"\n[ \t]*(?:\n[ \t]*)+", text.strip().replace("\r\n", "\n"))
    return [block.strip() for block in blocks if words(block)]


def sentences(text: str) -> list[str]:
    """The sentences of ``text``, stripped; see the module's docstring for where one ends."""
    found: list[str] = []
    for paragraph in paragraphs(text):
        for block in _list_items_apart(paragraph):
            found += _sentences_of_block(block)
    return found


def _list_items_apart(paragraph: str) -> list[str]:
    blocks: list[list[str]] = [[]]
    for line in paragraph.splitlines():
        if _LIST_ITEM.match(line) or (blocks[-1] and _LIST_ITEM.match(blocks[-1][0])):
            blocks.append([])
        blocks[-1].append(line)
    # The number of an item ("1.") would be taken for the end of a sentence.
    return [re.sub(r"^\s*(?:[-*+•‣–]|\d+[.)])\s+", "", "\n".join(block)) for block in blocks if block]


def _sentences_of_block(block: str) -> list[str]:
    found = []
    start = 0
    for match in _SENTENCE_END.finditer(block):
        before = block[max(start, match.start() - 20) : match.start()]
        follows = block[match.end() : match.end() + 80].lstrip()
        if match.group() == "." and follows and _is_abbreviation(before, follows):
            continue
        piece = block[start : match.end()].strip()
        start = match.end()
        if words(piece):
            found.append(piece)
    rest = block[start:].strip()
    if words(rest):
        found.append(rest)
    return found


def _is_abbreviation(before: str, follows: str) -> bool:
    if not before or before[-1].isspace():
        return False
    token = before.split()[-1].lstrip("\"'“‘(*_")
    if token.casefold() in _ABBREVIATIONS_ALSO_LAST:
        return not follows[:1].isupper()
    # A single capital is an initial ("J. Smith"), but "I" ends sentences more often than it is a name.
    return token.casefold() in _ABBREVIATIONS or (len(token) == 1 and token.isupper() and token != "I")


def bullets(text: str) -> list[str]:
    """The texts of bulleted list items (``-``, ``*``, ``+``, ``•``, ``‣``, ``–`` and a space), any depth."""
    found = [match.group(1).strip() for line in text.splitlines() if (match := _BULLET.match(line))]
    return [item for item in found if words(item)]


def numbered(text: str) -> list[tuple[int, str]]:
    """Numbers and texts of the top-level items of numbered lists (``1.`` or ``1)``), in order."""
    found = [match for line in text.splitlines() if (match := _NUMBERED.match(line))]
    return [(int(match.group(1)), match.group(2).strip()) for match in found if words(match.group(2))]


def occurrences(text: str, phrase: str, *, case_sensitive: bool = False) -> int:
    """How often ``phrase`` stands in ``text`` as whole words, without overlap.

    ``cat`` is not in ``cats`` or ``concatenate``, but it is in ``cat's`` and ``cat-like``. White space in the
    phrase stands for any white space. An edge of the phrase that is no letter or digit (``C++``, ``?``) needs
    no boundary there.
    """
    pattern = r"\s+".join(re.escape(part) for part in plain(phrase).split())
    if not pattern:
        raise ValueError("an empty phrase occurs nowhere")
    stripped = plain(phrase).strip()
    before = r"(?<![^\W_])" if stripped[0].isalnum() else ""
    after = r"(?![^\W_])" if stripped[-1].isalnum() else ""
    flags = re.NOFLAG if case_sensitive else re.IGNORECASE
    return len(re.findall(before + pattern + after, plain(text), flags))
