"""English words without their inflection, so that ``dogs`` counts as ``dog`` and ``danced`` as ``dance``.

Steps 1a, 1b, 1c and 5a of M. F. Porter, "An algorithm for suffix stripping" (Program 14(3), 1980): plurals,
-ed, -ing, final y and final e; -ies, -ied and final y as in its revision (Porter 2, 2001). Derivations
(-ation, -ness, …) stay apart and irregular forms (``ran``) are not known.
"""

import re

_VOWELS = "aeiou"


def stem(word: str) -> str:
    """The stem of an English word, in lower case; words of other alphabets are only lowered."""
    word = word.lower().removesuffix("'s").removesuffix("’s")
    if len(word) <= 2 or not re.fullmatch("[a-z]+", word):
        return word
    word = _without_ed_or_ing(_without_plural(word))
    if len(word) > 2 and word.endswith("y") and word[-2] not in _VOWELS:
        word = word[:-1] + "i"
    if word.endswith("e"):
        rest = word[:-1]
        if _measure(rest) > 1 or (_measure(rest) == 1 and not _ends_short(rest)):
            word = rest
    return word


def _without_plural(word: str) -> str:
    if word.endswith(("ies", "ied")):
        return word[:-2] if len(word) > 4 else word[:-1]
    for ending, replacement in (("sses", "ss"), ("ss", "ss"), ("s", "")):
        if word.endswith(ending):
            return word[: len(word) - len(ending)] + replacement
    return word


def _without_ed_or_ing(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for ending in ("ed", "ing"):
        rest = word.removesuffix(ending)
        if rest != word and _has_vowel(rest):
            break
    else:
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and rest[-1] not in _VOWELS + "lsz":
        return rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _ends_short(rest) else rest


def _shape(word: str) -> str:
    """``word`` as a string of c (consonant) and v (vowel); y is a vowel after a consonant."""
    shape = ""
    for letter in word:
        vowel = letter in _VOWELS or (letter == "y" and shape.endswith("c"))
        shape += "v" if vowel else "c"
    return shape


def _has_vowel(word: str) -> bool:
    return "v" in _shape(word)


def _measure(word: str) -> int:
    """How often a consonant follows a vowel: Porter's m."""
    return _shape(word).count("vc")


def _ends_short(word: str) -> bool:
    """Consonant, vowel, consonant at the end, the last one not w, x or y: Porter's *o."""
    return _shape(word).endswith("cvc") and word[-1] not in "wxy"
