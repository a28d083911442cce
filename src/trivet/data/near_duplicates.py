"""ROUGE-L between texts, and the pairs of a set that are too alike.

ROUGE-L (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, equations 2 to 4 with β = 1):
with LCS the length of the longest common subsequence of the words of two texts of m and n words, precision is
LCS / n, recall LCS / m and

    F = 2 · LCS / (m + n).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

_WORD = re.compile(r"\w+")


class NearDuplicate(NamedTuple):
    """Two texts of a set, by index, and their ROUGE-L F."""

    first: int
    second: int
    rouge_l: float


def words(text: str) -> list[str]:
    """The words that ROUGE-L compares: runs of letters, digits and underscores, case folded."""
    return _WORD.findall(text.casefold())


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bit-parallel dynamic programming.

    One row of the classic table is one integer, so the cost is O(m · n / word size) (Hyyrö, "Bit-parallel
    LCS-length computation revisited", 2004).
    """
    positions: dict[str, int] = {}
    for index, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << index
    mask = (1 << len(first)) - 1
    row = mask
    for word in second:
        matched = row & positions.get(word, 0)
        row = ((row + matched) | (row - matched)) & mask
    return len(first) - row.bit_count()


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L F of two texts, in [0, 1]; symmetric. Two texts without any word count as equal (1)."""
    left, right = words(first), words(second)
    if not left and not right:
        return 1.0
    return 2 * longest_common_subsequence(left, right) / (len(left) + len(right))


def near_duplicates(texts: Iterable[str], threshold: float = 0.7) -> list[NearDuplicate]:
    """Every pair of ``texts`` whose ROUGE-L F is above ``threshold``, in order of index.

    Pairs that share too few words, in any order, are never aligned: the size of the intersection of the two
    bags of words bounds the common subsequence from above.
    """
    bags = [(tokens, Counter(tokens)) for tokens in map(words, texts)]
    found = []
    for (i, (left, left_bag)), (j, (right, right_bag)) in combinations(enumerate(bags), 2):
        total = len(left) + len(right)
        if total == 0:
            found.append(NearDuplicate(i, j, 1.0))
            continue
        if 2 * min(len(left), len(right)) <= threshold * total:
            continue
        if 2 * (left_bag & right_bag).total() <= threshold * total:
            continue
        score = 2 * longest_common_subsequence(left, right) / total
        if score > threshold:
            found.append(NearDuplicate(i, j, score))
    return found
