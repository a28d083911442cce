"""Characters that act unseen are shown."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.study.report.characters import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "␛[31mred"),
        ("a\x00b", "a␀b"),
        ("\x7f", "␡"),
        ("\u202etxt.exe", "[U+202E]txt.exe"),
        ("\u2066x\u2069", "[U+2066]x[U+2069]"),
        ("\x9b2J", "[U+009B]2J"),
        ("\ud800", "[U+D800]"),
        ("\u2028", "[U+2028]"),
        ("\ufeff\u200b", "[U+FEFF][U+200B]"),
        ("\U000e0041", "[U+E0041]"),
        ("a\r\nb\rc", "a\nb␍c"),
        ("keeps\ttabs\nand lines", "keeps\ttabs\nand lines"),
        ("👩‍👩‍👧 می‌خواهم", "👩‍👩‍👧 می‌خواهم"),
    ],
)
def test_examples(text, shown):
    assert visible(text) == shown


@given(st.text(st.characters()))
def test_nothing_unseen_is_left_and_nothing_else_changes(text):
    shown = visible(text)
    hidden = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert all(
        unicodedata.category(character) not in hidden or character in "\n\t\u200c\u200d"
        for character in shown
    )
    shown.encode("utf-8")
    if all(unicodedata.category(character) not in hidden for character in text):
        assert shown == text
