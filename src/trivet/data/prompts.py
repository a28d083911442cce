"""Prompts as identities (are these two the same?) and as a population (which of them to measure with?)."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from trivet._files import sha256_text
from trivet.errors import DataError

# What stands between two digits changes a number or a sum: 3.5 is not 3 5 and 8-2 is not 8/2.
_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s*([-*/%.,:])\s*(?=\d)")
_PLACEHOLDER = {character: chr(0xE000 + index) for index, character in enumerate("-*/%.,:")}
_BACK = {placeholder: character for character, placeholder in _PLACEHOLDER.items()}


def normalise_prompt(text: str) -> str:
    """``text`` without the differences that do not make another prompt.

    Compatibility forms (NFKC), letter case, white space and punctuation are folded, invisible characters
    fall away; letters, digits, symbols such as ``+`` and ``=``, and what stands between two digits are kept.
    A text that holds nothing else is returned with its punctuation, so that ``"?"`` and ``"!"`` stay
    different.
    """
    # Format characters (zero-width space, soft hyphen) and private-use ones, which mark places below.
    visible = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Co"))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
    marked = _BETWEEN_DIGITS.sub(lambda match: _PLACEHOLDER[match.group(1)], folded)
    kept = "".join(_BACK.get(c, c if unicodedata.category(c)[0] in "LMNS" else " ") for c in marked)
    return " ".join(kept.split()) or " ".join(folded.split())


def prompt_digest(text: str) -> str:
    """Hexadecimal SHA-256 of the normalised prompt: equal for prompts that count as the same."""
    return sha256_text(normalise_prompt(text))


def stratified_subset(
    rows: Sequence[Mapping[str, Any]], n: int, *, key: str = "category", seed: int = 0
) -> list[Mapping[str, Any]]:
    """``n`` of ``rows``, drawn at random with each stratum in proportion to its size.

    The k-th row (from 0) of a stratum of m rows, in an order drawn from the seed and the row's id, has the
    rank (k + ½) / m, and the n rows of lowest rank are taken. That is the apportionment of Webster
    (Sainte-Laguë): nearly proportional for every n, and nested, so that a larger n contains the smaller one.
    The result does not depend on the order of ``rows``.

    Args:
        rows: mappings with a unique ``"id"`` and the field ``key``.
        n: how many, 0 or more; all rows when it is at least their number.
        key: the field whose values are the strata.
        seed: of the draw.

    Returns:
        The rows, lowest rank first, so that its first m rows are the subset of size m.

    Raises:
        DataError: a row lacks ``id`` or ``key``, or an id is given twice.
    """
    if n < 0:
        raise ValueError(f"n must be 0 or more, not {n}")
    strata: dict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        if "id" not in row or key not in row:
            raise DataError(f"a row to draw from needs the fields 'id' and {key!r}", where=f"row {number}")
        if row["id"] in seen:
            raise DataError(f"the id {row['id']!r} is given twice", where=f"row {number}")
        seen.add(row["id"])
        draw = hashlib.sha256(f"{seed}\0{row['id']}".encode("utf-8", "surrogatepass")).hexdigest()
        strata[str(row[key])].append((draw, row))
    ranked = []
    for members in strata.values():
        members.sort(key=lambda member: member[0])
        ranked += [((k + 0.5) / len(members), draw, row) for k, (draw, row) in enumerate(members)]
    ranked.sort(key=lambda entry: entry[:2])
    return [row for _, _, row in ranked[:n]]
