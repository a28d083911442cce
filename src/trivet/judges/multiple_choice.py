"""Reading which choice a free-text answer to a multiple-choice question takes.

In this order, and the first that decides wins:

1. an announced letter ("Answer: B", "the correct answer is (B)", "B is correct"); announcements that disagree
   decide nothing, and nothing after them does;
2. an answer that is a letter, or starts with one that is set off ("B", "(B)", "B) Paris", "B. Paris"), unless
   it goes on to list other choices;
3. the text of exactly one choice, as whole words; a choice that is part of a longer named one does not count;
4. exactly one letter set in brackets anywhere.

A letter that is followed by the text of another choice ("A) Rome" where A is Paris) contradicts itself and
decides nothing. Everything else is unparsed; a guess is never made.
"""

import re
from collections.abc import Sequence

from trivet.judges.answers import contains, tokens

_ANNOUNCED = re.compile(
    r"\b(?:answer|choice|option|letter|choose|pick|select)\b"
    r"(?:\s+(?:is|would be|must be|should be))?\s*[:=\-]?\s*"
    r"(?:(?:option|choice|letter)\s+)?[\s*_\"'`(\[]*([A-Za-z])(?![\w'’])",
    re.IGNORECASE,
)
_CALLED_RIGHT = re.compile(
    r"(?<![\w'’])([A-Z])[)\]*_\"'`]* (?:is|would be) (?:the )?(?:right|correct|best)\b"
)
_LEADING = re.compile(r"[\s*_\"'`(\[]*([A-Za-z])[\"'`*_]*(?:[).\]:]|\s*$|\s*\n|\s+[-–]\s)")
_LISTED = re.compile(r"^\s*([A-Z])[).:]\s", re.MULTILINE)
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]|\b([A-Z])\)")


def letter(index: int) -> str:
    """The letter of the choice at ``index``: 0 is A."""
    return chr(ord("A") + index)


def parse_choice(answer: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that ``answer`` takes, or ``None`` where it takes none or more than one."""
    announced = _announced(answer)
    if found := _indices([character for character, _ in announced], len(choices)):
        taken = found.pop() if len(found) == 1 else None
        return taken if taken is not None and _agrees(answer, announced, taken, choices) else None
    leading = None if len(set(_LISTED.findall(answer))) > 1 else _LEADING.match(answer)
    if leading and (index := _index(leading.group(1), len(choices))) is not None:
        return index if _agrees(answer, [(leading.group(1), leading.end())], index, choices) else None
    named = _named(answer, choices)
    if named:
        return named.pop() if len(named) == 1 else None
    bracketed = _indices([one or other for one, other in _BRACKETED.findall(answer)], len(choices))
    return bracketed.pop() if len(bracketed) == 1 else None


def _announced(answer: str) -> list[tuple[str, int]]:
    """Announced letters, each with the place where it ends."""
    found = []
    for match in _ANNOUNCED.finditer(answer):
        character, before = match.group(1), answer[match.start(1) - 1]
        if before not in "([*_\"'`":
            # "the answer is a kind of …": a bare article or pronoun goes on with a word, a letter does not.
            goes_on = answer[match.end() :].lstrip(" ")[:1].isalnum()
            after_colon = answer[: match.start(1)].rstrip().endswith((":", "="))
            if (character.islower() and (goes_on or not after_colon)) or (character in "AI" and goes_on):
                continue
        found.append((character, match.end()))
    return found + [(match.group(1), match.end()) for match in _CALLED_RIGHT.finditer(answer)]


def _agrees(answer: str, letters: Sequence[tuple[str, int]], taken: int, choices: Sequence[str]) -> bool:
    """Whether no letter for ``taken`` is followed at once by the text of another choice ("A) Rome")."""
    wanted = [tokens(choice) for choice in choices]
    for character, end in letters:
        if _index(character, len(choices)) != taken:
            continue
        given = tokens(answer[end : end + 200])
        # Of two choices that both begin what follows, such as "red" and "red wine", the longer one is meant.
        begun = [i for i, choice in enumerate(wanted) if choice and given[: len(choice)] == choice]
        if begun and max(begun, key=lambda i: (len(wanted[i]), i == taken)) != taken:
            return False
    return True


def _index(character: str, n: int) -> int | None:
    index = ord(character.upper()) - ord("A")
    return index if 0 <= index < n else None


def _indices(characters: Sequence[str], n: int) -> set[int]:
    return {index for character in characters if (index := _index(character, n)) is not None}


def _named(answer: str, choices: Sequence[str]) -> set[int]:
    given = tokens(answer)
    wanted = [tokens(choice) for choice in choices]
    found = {index for index, choice in enumerate(wanted) if contains(given, choice)}
    return {
        index
        for index in found
        if not any(
            other != index
            and len(wanted[other]) > len(wanted[index])
            and contains(wanted[other], wanted[index])
            for other in found
        )
    }
