# ruff: noqa: E501 - a case a line
"""Each rule at its borders: (arguments, texts that hold, texts that do not)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.data.suites import suite_rows
from trivet.errors import DataError
from trivet.judges.rules import Rule, check, parse_rule, parse_rules

TABLE = "| a | b |\n|---|:-:|\n| 1 | 2 |\n| 3 | 4 |"

CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("word_count", {"exactly": 3}, ["one two three", "don't be-late now"], ["one two", "a b c d"]),
    ("word_count", {"at_least": 2, "at_most": 3}, ["a b", "a b c"], ["a", "a b c d"]),
    ("sentence_count", {"exactly": 2}, ["One. Two.", "One! And two"], ["One.", "A b. C d. E f."]),
    ("paragraph_count", {"at_most": 2}, ["a", "a\n\nb"], ["a\n\nb\n\nc"]),
    ("line_count", {"exactly": 2}, ["a\n\nb", "a\nb\n"], ["a", "a\nb\nc"]),
    ("character_count", {"at_most": 5}, ["abcde", "  abcde\n"], ["abcdef"]),
    ("sentence_length", {"at_most": 3}, ["One two three. Four."], ["One two three four. Five."]),
    ("bullet_count", {"exactly": 2}, ["- a\n- b", "List:\n* a\n* b\nDone"], ["- a", "- a\n- b\n- c", "-a\n-b"]),
    ("numbered_list", {"exactly": 2}, ["1. a\n2. b", "Steps:\n1) a\n\n2) b"], ["1. a", "1. a\n1. b", "2. a\n3. b"]),
    ("numbered_list", {"at_least": 1}, ["1. a"], ["- a", "no list"]),
    ("comma_separated", {"exactly": 3}, ["a, b, c", "a, b, and c.", "New York, Rome, Oslo"], ["a, b", "a,\nb, c", "a b c"]),
    ("comma_separated", {"at_least": 1}, ["a"], ["I think that the answer could be a, b"]),
    ("keyword_count", {"word": "tea", "at_least": 2}, ["Tea or tea?"], ["tea", "teas tea"]),
    ("keyword_count", {"word": "tea", "exactly": 1}, ["my tea"], ["tea tea", "teapot"]),
    ("letter_count", {"letter": "e", "exactly": 0}, ["a dog ran"], ["the", "E x"]),
    ("letter_count", {"letter": "q", "at_least": 2}, ["Quiet quail"], ["quiet"]),
    ("capital_words", {"exactly": 1}, ["I am VERY glad"], ["I am", "VERY GOOD", "A B c"]),
    ("placeholders", {"at_least": 2}, ["Dear [name], on [date]"], ["Dear [name]", "[a](b) [c](d)", "[ ] [x]"]),
    ("headings", {"exactly": 1}, ["# A\ntext", "### A b"], ["#A", "# A\n## B", "text # A"]),
    ("bold_count", {"exactly": 1}, ["a **b c** d"], ["a *b* c", "**a** **b**", "** a **", "***"]),
    ("parts", {"separator": "***", "exactly": 2}, ["a\n***\nb", "a\n\n *** \n\nb"], ["a *** b", "a\n***", "a\n***\nb\n***\nc"]),
    ("includes", {"words": ["sun", "ice cream"]}, ["Sun! Ice\ncream."], ["sunny ice cream", "sun", "ice sun cream"]),
    ("excludes", {"words": ["very"]}, ["every day"], ["Very good", "a 'very' b"]),
    ("excludes_characters", {"characters": ","}, ["a; b"], ["a, b"]),
    ("excludes_characters", {"characters": "z"}, ["abc"], ["Zoo", "buzz"]),
    ("starts_with", {"text": "In autumn"}, ["In autumn, leaves", '"In Autumn leaves', "**In autumn** it"], ["In autumns", "So in autumn"]),
    ("starts_with", {"text": "Yes"}, ["Yes.", "yes, do", "Yes"], ["Yesterday", "No"]),
    ("starts_with", {"text": "*Note"}, ["*Note* this"], ["Note this"]),
    ("ends_with", {"text": "the end"}, ["It is the end.", 'so "The End"', "x **the end**"], ["the end is near", "breathe end"]),
    ("ends_with", {"text": "?"}, ["Why?", 'He asked "why?"', "Why? \n"], ["Why", "Why?!", "Why? Because."]),
    ("ends_with", {"text": "sea moves."}, ["the sea moves."], ["the sea moves"]),
    ("lines_start_with", {"text": "Maybe"}, ["Maybe a\nMaybe b", "- Maybe a\n\n- maybe b"], ["Maybe a", "Maybe a\nand b", "Maybes\nMaybes"]),
    ("acrostic", {"word": "cat"}, ["Can\nall\nthem", "**C**an\n\n- a\nt"], ["Can\nall", "Can\nthey\nall", "Can\nall\nthem\nrun"]),
    ("lines_sorted", {}, ["apple\nbanana", "- Ant\n- bee", "1. a\n2. b", "same\nsame"], ["b\na", "- bee\n- ant", "one"]),
    ("all_lowercase", {}, ["abc 1!", "ß é"], ["aBc", "123", ""]),
    ("all_uppercase", {}, ["ABC 1!", "É"], ["ABc", "123"]),
    ("script", {"script": "cyrillic"}, ["спасибо!", "Да 1"], ["spasibo", "спасибо (thanks)", "1"]),
    ("script", {"script": "greek"}, ["γεια σου", "Γειά"], ["γεια hi"]),
    ("script", {"script": "japanese"}, ["おはようございます", "日本カー"], ["ohayou", "おはよう ohayou"]),
    ("script", {"script": "han"}, ["水", "水。"], ["水 shuǐ", "みず"]),
    ("json_object", {"keys": ["a"]}, ['{"a": 1, "b": 2}', '```json\n{"a": null}\n```'], ['{"b": 1}', '[{"a": 1}]', 'Here: {"a": 1}', "{a: 1}", '{"a": NaN}']),
    ("json_object", {"keys": ["a"], "only": True}, ['{"a": 1}'], ['{"a": 1, "b": 2}', "{}"]),
    ("json_object", {}, ["{}"], ["1", "[" * 100_000]),
    ("json_list", {"exactly": 2}, ["[1, 2]", "```\n[1, 2]\n```"], ["[1]", '{"a": [1, 2]}', "1, 2"]),
    ("quoted", {}, ['"Hello there"', "“Hi you”", "«oui»"], ['Hello "you"', '"a" and "b"', '""', '"open', "'single'"]),
    ("title", {}, ["<<A tale>>\nOnce", "# <<A>> b", "**<<A b>>**"], ["Once <<A>>", "<<>>", "<A>", "<< >>"]),
    ("postscript", {}, ["Dear you\n\nP.S. I am late", "Dear\nPS: x", "Hi\n\n**P.S.** yes"], ["P.S. alone", "Hi P.S. there", "Hi\nP.S.", "Hi\n\nP.S. a\n\nBye"]),
    ("table", {"exactly": 2, "columns": 2}, [TABLE, f"Here:\n\n{TABLE}\n\nDone"], ["| a | b |\n| 1 | 2 |", "a b"]),
    ("table", {"at_least": 3}, [TABLE + "\n| 5 | 6 |"], [TABLE, TABLE + "\n| 5 |"]),
    ("table", {"exactly": 1, "columns": 3}, ["a | b | c\n--- | --- | ---\n1 | 2 | 3"], [TABLE]),
    ("code_block", {}, ["```\nls\n```", "Run:\n```sh\nls\n```\n"], ["`ls`", "```\n```", "```ls```"]),
    ("code_block", {"language": "python"}, ["```Python\nx\n```"], ["```\nx\n```", "```py\nx\n```"]),
    ("one_of", {"options": ["yes", "no"]}, ["Yes.", "**no**", '"yes"', "(No)"], ["yes, it is", "maybe", ""]),
    ("number_only", {}, ["8", " 8. ", "**1,250.5**", "-3", "−3"], ["eight", "8 legs", "8 9", "1,2"]),
    ("number_only", {"minimum": 1, "maximum": 10}, ["1", "10"], ["0", "11"]),
    ("labelled_lines", {"labels": ["To", "From"]}, ["To: a\nFrom: b", "**To:** a\n\nFROM : b"], ["From: a\nTo: b", "To: a", "To:\nFrom: b", "Hi\nTo: a\nFrom: b"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "holding", "failing"), CASES)
def test_rule_at_its_borders(
    name: str, arguments: dict[str, Any], holding: list[str], failing: list[str]
) -> None:
    rule = parse_rule({"rule": name, **arguments})
    for text in holding:
        assert rule.holds(text), text
    for text in failing:
        assert not rule.holds(text), text[:80]


def test_every_rule_is_tested_and_used_in_the_suite_three_times() -> None:
    tested = {name for name, *_ in CASES}
    assert tested == set(Rule.registry)
    used = [rule["rule"] for row in suite_rows("instructions") for rule in row["rules"]]
    assert {name for name in Rule.registry if used.count(name) < 3} == set()


def test_the_rules_of_the_suite_parse_and_are_one_to_three() -> None:
    for row in suite_rows("instructions"):
        assert 1 <= len(parse_rules(row["rules"], where=row["id"])) <= 3


def test_words_that_the_rules_want_stand_in_the_prompt() -> None:
    """A rule may not ask for a word of which the prompt says nothing."""
    for row in suite_rows("instructions"):
        prompt = row["prompt"].casefold()
        for rule in row["rules"]:
            wanted = [*rule.get("words", ()), *rule.get("labels", ()), *rule.get("keys", ())]
            wanted += [
                rule[key] for key in ("word", "text", "letter", "separator", "language") if key in rule
            ]
            for word in wanted:
                assert word.casefold() in prompt.replace("question mark", "?"), (row["id"], word)


def test_an_answer_without_words_fulfils_nothing() -> None:
    rules = parse_rules([{"rule": "excludes", "words": ["very"]}, {"rule": "word_count", "at_most": 9}])
    for text in ("", "  \n", "...", "***"):
        assert check(rules, text) == [False, False]
    assert check(rules, "a day") == [True, True]


@given(st.text(max_size=300))
def test_no_text_makes_a_rule_raise(text: str) -> None:
    for name, arguments, _, _ in CASES:
        assert parse_rule({"rule": name, **arguments}).holds(text) in (True, False)


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=3))
def test_a_json_object_of_any_keys_is_recognised(value: dict[str, int]) -> None:
    keys = [key for key in value if key.strip()]
    rule = parse_rule({"rule": "json_object", "keys": keys})
    assert rule.holds(json.dumps(value))
    assert rule.holds(f"```json\n{json.dumps(value, indent=2)}\n```")


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_bounds_are_inclusive(count: int, low: int, extra: int) -> None:
    text = " ".join(["word"] * count)
    rule = parse_rule({"rule": "word_count", "at_least": low, "at_most": low + extra})
    assert rule.holds(text) == (low <= count <= low + extra)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"rule": "word_cuont", "at_most": 3}, "word_count"),
        ({"at_most": 3}, "unknown rule None"),
        ({"rule": "word_count"}, "give exactly, at_least or at_most"),
        ({"rule": "word_count", "exactly": 3, "at_most": 4}, "exactly stands alone"),
        ({"rule": "word_count", "at_least": 5, "at_most": 4}, "at_least 5 is above at_most 4"),
        ({"rule": "word_count", "at_least": -1}, "greater than or equal to 0"),
        ({"rule": "word_count", "atmost": 4}, "at_most"),
        ({"rule": "includes", "words": []}, "at least 1"),
        ({"rule": "includes", "words": [" "]}, "pattern"),
        ({"rule": "letter_count", "letter": "ab", "at_least": 1}, "letter"),
        ({"rule": "script", "script": "klingon"}, "latin"),
        ({"rule": "one_of", "options": ["a"]}, "at least 2"),
    ],
)
def test_a_wrong_rule_is_a_clear_error(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_rule(row, where="my.jsonl, line 3")
    assert message in str(caught.value)
    assert "my.jsonl, line 3" in str(caught.value)


def test_a_row_without_rules_is_refused() -> None:
    with pytest.raises(DataError, match="at least one rule"):
        parse_rules([], where="row")
