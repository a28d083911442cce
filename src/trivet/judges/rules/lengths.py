"""Rules on how much there is of something. All are ``Bounded``: ``exactly``, ``at_least``, ``at_most``."""

import re
from typing import Annotated

from pydantic import Field

from trivet.judges.rules.base import Bounded, Rule, Text
from trivet.judges.rules.segmentation import (
    bullets,
    lines,
    numbered,
    occurrences,
    paragraphs,
    plain,
    sentences,
    words,
)


class WordCount(Bounded, name="word_count"):
    """The number of words."""

    def holds(self, text: str) -> bool:
        return self.within(len(words(text)))


class SentenceCount(Bounded, name="sentence_count"):
    """The number of sentences."""

    def holds(self, text: str) -> bool:
        return self.within(len(sentences(text)))


class ParagraphCount(Bounded, name="paragraph_count"):
    """The number of paragraphs: blocks between blank lines that hold a word."""

    def holds(self, text: str) -> bool:
        return self.within(len(paragraphs(text)))


class LineCount(Bounded, name="line_count"):
    """The number of lines that are not blank."""

    def holds(self, text: str) -> bool:
        return self.within(len(lines(text)))


class CharacterCount(Bounded, name="character_count"):
    """The number of characters (Unicode code points), spaces included, without white space at both ends."""

    def holds(self, text: str) -> bool:
        return self.within(len(text.strip()))


class SentenceLength(Rule, name="sentence_length"):
    """No sentence has more than ``at_most`` words."""

    at_most: Annotated[int, Field(ge=1)]

    def holds(self, text: str) -> bool:
        return all(len(words(sentence)) <= self.at_most for sentence in sentences(text))


class BulletCount(Bounded, name="bullet_count"):
    """The number of bulleted list items (a line with ``-``, ``*``, ``+`` or ``•`` and a space first)."""

    def holds(self, text: str) -> bool:
        return self.within(len(bullets(text)))


class NumberedList(Bounded, name="numbered_list"):
    """The number of items of one numbered list, whose numbers run 1, 2, 3, … without a gap."""

    def holds(self, text: str) -> bool:
        numbers = [number for number, _ in numbered(text)]
        return numbers == list(range(1, len(numbers) + 1)) and self.within(len(numbers))


class CommaSeparated(Bounded, name="comma_separated"):
    """The answer is nothing but one line of items with commas between them; their number is bounded.

    A final full stop and an "and" or "or" before the last item are allowed; an item has at most six words.
    """

    def holds(self, text: str) -> bool:
        if len(lines(text)) != 1:
            return False
        items = [item.strip() for item in text.strip().rstrip(".").split(",")]
        items = [re.sub(r"^(?:and|or)\s+", "", item, flags=re.IGNORECASE) for item in items]
        return all(1 <= len(words(item)) <= 6 for item in items) and self.within(len(items))


class KeywordCount(Bounded, name="keyword_count"):
    """How often ``word`` (or a phrase) stands in the answer as a whole word, in any case of letters."""

    word: Text

    def holds(self, text: str) -> bool:
        return self.within(occurrences(text, self.word))


class LetterCount(Bounded, name="letter_count"):
    """How often ``letter`` stands in the answer, capital or small."""

    letter: Annotated[str, Field(min_length=1, max_length=1, pattern=r"[^\W\d_]")]

    def holds(self, text: str) -> bool:
        return self.within(plain(text).casefold().count(self.letter.casefold()))


class CapitalWords(Bounded, name="capital_words"):
    """The number of words of two or more letters that are written in capitals throughout."""

    def holds(self, text: str) -> bool:
        return self.within(sum(sum(map(str.isalpha, word)) >= 2 and word.isupper() for word in words(text)))


class Placeholders(Bounded, name="placeholders"):
    """The number of placeholders in square brackets, such as ``[name]``; a Markdown link is none."""

    def holds(self, text: str) -> bool:
        return self.within(sum(map(bool, map(words, re.findall(r"\[([^\[\]\n]+)\](?!\()", text)))))


class Headings(Bounded, name="headings"):
    """The number of Markdown headings: lines that start with one to six ``#`` and a space."""

    def holds(self, text: str) -> bool:
        return self.within(
            sum(bool(words(rest)) for rest in re.findall(r"^ {0,3}#{1,6} (.*)$", text, re.MULTILINE))
        )


class BoldCount(Bounded, name="bold_count"):
    """The number of passages in Markdown bold, ``**so**``."""

    def holds(self, text: str) -> bool:
        return self.within(len(re.findall(r"(?<!\*)\*\*(?=[^\s*])[^*\n]+(?<=[^\s*])\*\*(?!\*)", text)))


class Parts(Bounded, name="parts"):
    """The number of parts that hold a word, between lines that are nothing but ``separator``."""

    separator: Text

    def holds(self, text: str) -> bool:
        parts: list[list[str]] = [[]]
        for line in text.splitlines():
            if line.strip() == self.separator.strip():
                parts.append([])
            else:
                parts[-1].append(line)
        return all(words("\n".join(part)) for part in parts) and self.within(len(parts))
