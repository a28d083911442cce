import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.judges.rules import segmentation as s


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("--- *** ###", []),
        ("don't well-known 3,500.5 café", ["don't", "well-known", "3,500.5", "café"]),
        ("It’s 9:30 — or 10.", ["It’s", "9:30", "or", "10"]),
        ("**bold** _it_ `code`", ["bold", "it", "code"]),
        ("snake_case a/b", ["snake", "case", "a", "b"]),
        ("'quoted' words'", ["quoted", "words"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert s.words(text) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One.", 1),
        ("One", 1),
        ("One. Two! Three?", 3),
        ('He said "Stop!" Then he left.', 2),
        ("Wait... what?!", 2),
        ("Dr. Smith met Mrs. Jones at St. Paul's.", 1),
        ("J. K. Rowling wrote it. I read it.", 2),
        ("So did I. You too.", 2),
        ("We met at 5 p.m. and left.", 1),
        ("We met at 5 p.m. Then we left.", 2),
        ("Pears, plums, etc. are fruit. They are sweet.", 2),
        ("Pi is 3.14 or so. Fine.", 2),
        ("I said no. Then I went.", 2),
        ("A first paragraph\n\nand a second", 2),
        ("one line\nthat goes on.", 1),
        ("List:\n- one\n- two", 3),
        ("1. Boil it.\n2. Eat it.", 2),
        ("これは本です。あれはペンです。", 2),
        ("(Really.) Yes.", 2),
        ("Visit example.com today. Bye.", 2),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert len(s.sentences(text)) == count, s.sentences(text)


def test_paragraphs_are_blocks_with_words() -> None:
    assert s.paragraphs("one\ntwo\n\n\n***\n\n  three \n \nfour\n") == ["one\ntwo", "three", "four"]
    assert s.paragraphs("one\r\n\r\ntwo") == ["one", "two"]


def test_lines_drop_blank_ones() -> None:
    assert s.lines(" a \n\n\tb\n \n") == ["a", "b"]


def test_bullets_and_numbers() -> None:
    text = (
        "Here:\n- one\n* two\n  + three\n• four\n-five\n**not one**\n* * *\n1. first\n2) second\n    3. nest"
    )
    assert s.bullets(text) == ["one", "two", "three", "four"]
    assert s.numbered(text) == [(1, "first"), (2, "second")]


@pytest.mark.parametrize(
    ("text", "phrase", "count"),
    [
        ("The cat saw cats and a CAT.", "cat", 2),
        ("cat's cat-like concatenate", "cat", 2),
        ("New\nYork and new  york", "New York", 2),
        ("C++ and C", "C++", 1),
        ("What? What?", "?", 2),
        ("don’t", "don't", 1),
        ("straße", "strasse", 0),
        ("[name] and [Name]", "[name]", 2),
    ],
)
def test_occurrences(text: str, phrase: str, count: int) -> None:
    assert s.occurrences(text, phrase) == count


def test_occurrences_can_mind_the_case() -> None:
    assert s.occurrences("Cat cat", "cat", case_sensitive=True) == 1


def test_an_empty_phrase_is_refused() -> None:
    with pytest.raises(ValueError, match="empty phrase"):
        s.occurrences("text", "  ")


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=12))
def test_words_joined_by_spaces_are_those_words(parts: list[str]) -> None:
    assert s.words(" ".join(parts)) == parts
    assert len(s.sentences(". ".join(part.title() + " it" for part in parts) + ".")) == len(parts)
    assert s.paragraphs("\n\n".join(parts)) == parts


@given(st.text(max_size=200))
def test_no_text_breaks_the_cuts(text: str) -> None:
    for cut in (s.words, s.lines, s.paragraphs, s.sentences, s.bullets, s.numbered):
        cut(text)


@pytest.mark.parametrize(
    "text", ["." * 50_000 + "a", "- " + " " * 50_000, "1. " * 20_000, "\n " * 20_000, "A. " * 20_000]
)
def test_hostile_texts_take_no_long_time(text: str) -> None:
    start = time.process_time()
    for cut in (s.words, s.lines, s.paragraphs, s.sentences, s.bullets, s.numbered):
        cut(text)
    assert time.process_time() - start < 5
