"""Objectives: degrees, states and heuristics of texts, and settings that are refused."""

import sys
import types
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

from trivet.decode._functions import FunctionCalls, fingerprint, load_function
from trivet.decode._objectives import CannotScoreError, Objective, begins_json, coverage, labels
from trivet.decode._stemming import stem

ADAPTER: Any = TypeAdapter(Objective)


def objective(**settings: Any) -> Any:
    return ADAPTER.validate_python(settings)


def states(one: Any, text: str) -> tuple[str, str]:
    """As a beginning, and as a whole answer."""
    return one.state(text, final=False), one.state(text, final=True)


# Keywords


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("dog", ["dogs", "dog's", "DOG"]), ("catch", ["catches", "catching"]), ("hop", ["hopping", "hopped"]),
        ("hope", ["hoping", "hoped", "hopes"]), ("dance", ["dancing", "danced", "dances"]),
        ("fly", ["flies", "flying"]), ("tie", ["ties", "tied"]),
        ("agree", ["agreed", "agreeing"]), ("box", ["boxes", "boxed"]),
        ("fall", ["falling", "falls"]), ("play", ["played", "plays"]), ("size", ["sized", "sizing"]),
    ],
)  # fmt: skip
def test_inflected_forms_have_one_stem(word: str, forms: list[str]) -> None:
    assert {stem(form) for form in forms} == {stem(word)}


def test_different_words_keep_different_stems() -> None:
    words = ["bed", "be", "sing", "string", "ring", "red", "need", "hop", "hope", "café", "日本", "3d"]
    assert len({stem(word) for word in words}) == len(words)


@pytest.mark.parametrize(
    ("text", "concepts", "expected"),
    [
        ("The dogs were catching a frisbee.", ("dog", "catch", "frisbee", "run"), [True, True, True, False]),
        ("a category", ("cat",), [False]),  # whole words
        ("Ice  creams, please", ("ice cream",), [True]),  # a phrase
        ("cream and ice", ("ice cream",), [False]),
        ("", ("dog",), [False]),
    ],
)  # fmt: skip
def test_coverage(text: str, concepts: tuple[str, ...], expected: list[bool]) -> None:
    assert coverage(text, concepts) == expected


def test_keywords_without_stems_match_as_written() -> None:
    assert coverage("Dogs", ("dog", "dogs"), stemmed=False) == [False, True]


def test_keyword_degree_state_and_heuristic() -> None:
    soft = objective(type="keywords", concepts=["dog", "cat"])
    hard = objective(type="keywords", concepts=["dog", "cat"], kind="hard")
    assert [soft.value(text, final=True) for text in ("a dog", "cats, dogs", "")] == [0.5, 1.0, 0.0]
    assert states(hard, "a dog") == ("open", "violated")
    assert states(hard, "dog cat") == ("satisfied", "satisfied")
    assert [hard.value("a dog", final=final) for final in (False, True)] == [0.0, -1.0]


# Length


def test_length_degree_is_one_within_the_bounds_and_falls_with_the_share_beyond() -> None:
    one = objective(type="length", min_words=2, max_words=4)
    degrees = [one.degree("w " * count, final=True) for count in (0, 1, 2, 4, 5, 8)]
    assert degrees == [-1.0, -0.5, 1.0, 1.0, -0.25, -1.0]
    assert one.degree("w", final=False) == 1.0  # it may still grow


def test_length_states() -> None:
    one = objective(type="length", min_words=2, max_words=3)
    assert states(one, "a") == ("open", "violated")
    assert states(one, "a b c") == ("satisfied", "satisfied")
    assert states(one, "a b c d") == ("violated", "violated")


@given(st.text(max_size=30), st.text(max_size=5))
def test_too_long_stays_too_long(text: str, more: str) -> None:
    one = objective(type="length", max_words=2)
    if one.state(text + "\n", final=False) == "violated":
        assert one.state(text + "\n" + more, final=False) == "violated"


# Regular expressions


def test_half_a_match_is_open() -> None:
    one = objective(type="regex", pattern=r"(yes|no), \d{4}")
    assert states(one, "ye") == ("open", "violated")
    assert states(one, "no, 19") == ("open", "violated")
    assert states(one, "no, 1984") == ("satisfied", "satisfied")
    assert states(one, "maybe") == ("violated", "violated")
    assert states(one, "") == ("open", "violated")


def test_a_search_is_open_until_the_end() -> None:
    one = objective(type="regex", pattern=r"\bthanks\b", match="search")
    assert states(one, "nothing") == ("open", "violated")
    assert states(one, "many thanks to you") == ("satisfied", "satisfied")
    assert [one.degree("nothing", final=final) for final in (False, True)] == [0.5, 0.0]


def test_a_pattern_that_runs_away_is_stopped_and_not_scored() -> None:
    one = objective(type="regex", pattern=r"(a|aa)+(b|c)+\1d\2")
    with pytest.raises(CannotScoreError, match="took longer"):
        one.state("a" * 60 + "e", final=True)


# JSON


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("", True), (" \n", True), ("{", True), ('{"a"', True), ('{"a": 1, "b', True), ("[1,", True),
        ("tru", True), ("-", True), ("1.", True), ("1e", True), ('"abc\\', True), ('"\\u12', True),
        ('{"a":1} ', True), ("12", True), ('{"a" 1', False), ("[1,,", False), ("trx", False), ("01", False),
        ('{"a":1}x', False), ("12 3", False), ('"a\nb', False), ("NaN", False), ("[NaN", False),
        ("Here is", False), ("```json", False), ("[" * 5000, False),
    ],
)  # fmt: skip
def test_beginnings_of_json(text: str, begins: bool) -> None:
    assert begins_json(text) is begins


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(JSON, st.data())
def test_every_beginning_of_a_document_is_one(document: Any, data: Any) -> None:
    import json

    text = json.dumps(document)
    assert begins_json(text[: data.draw(st.integers(0, len(text)))])


def test_a_schema_is_applied_to_the_whole_document() -> None:
    definition = {"type": "object", "required": ["name"], "properties": {"age": {"type": "integer"}}}
    one = objective(type="json_schema", definition=definition)
    assert states(one, '{"name": "A", "age": 3') == ("open", "violated")
    assert states(one, '{"name": "A", "age": 3}') == ("satisfied", "satisfied")
    assert states(one, '{"age": 3}') == ("violated", "violated")
    assert states(one, '{"name": "A", "age": "x"}') == ("violated", "violated")
    assert states(one, 'Sure: {"name": "A"}') == ("violated", "violated")


def test_a_schema_elsewhere_is_not_fetched() -> None:
    one = objective(type="json_schema", definition={"$ref": "http://127.0.0.1:9/schema"})
    with pytest.raises(CannotScoreError, match="cannot be applied"):
        one.state("{}", final=True)


# Functions


def module_with(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    module = types.ModuleType("objectives_of_a_test")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    load_function.cache_clear()


def test_a_function_is_called_with_what_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def commas(prompt: str, continuation: str, final: bool) -> float:
        if continuation == "bad":
            raise KeyError("no such thing")
        return continuation.count(",") + 10 * final + 100 * len(prompt)

    module_with(monkeypatch, commas=commas)
    function = load_function("objectives_of_a_test:commas")
    calls = FunctionCalls(function, "Q", (("a,b", False), ("a,b", True), ("bad", False)))
    verdicts = calls.score(())
    assert [verdict.value for verdict in verdicts] == [101.0, 111.0, None]
    assert "KeyError" in str(verdicts[2].reason)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x", None])
def test_what_is_no_finite_number_is_not_scored(value: Any) -> None:
    calls = FunctionCalls(lambda prompt, continuation, final: value, "", (("a", True),))
    assert calls.score(())[0].value is None


def test_functions_that_cannot_be_used_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_objectives.py").write_text("raise RuntimeError('boom')\n")
    monkeypatch.syspath_prepend(tmp_path)
    module_with(monkeypatch, number=3, other=lambda text: 1.0)
    for address, said in [
        ("no_colon", "module:function"),
        ("no.such.module:f", "not importable"),
        ("broken_objectives:f", "fails: RuntimeError: boom"),
        ("objectives_of_a_test:absent", "has no 'absent'"),
        ("objectives_of_a_test:number", "is not a function"),
        ("objectives_of_a_test:other", "must take the parameters prompt, continuation, final"),
        ("os:system", "must take the parameters"),  # a system from elsewhere cannot run commands
        ("subprocess:getoutput", "must take the parameters"),
        ("builtins:eval", "must take the parameters"),
    ]:
        with pytest.raises(ValidationError, match=said):
            objective(type="function", function=address)


def test_an_edited_function_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for body in ("1.0", "2.0"):
        file = tmp_path / "edited_objectives.py"
        file.write_text(f"def f(prompt, continuation, final):\n    return {body}\n")
        sys.modules.pop("edited_objectives", None)
        load_function.cache_clear()
        found.append(fingerprint("edited_objectives:f"))
    assert found[0] != found[1] and all(len(one) == 64 for one in found)


# Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"type": "keywords", "concepts": []}, "at least 1"),
        ({"type": "keywords", "concepts": ["…"]}, "holds no word"),
        ({"type": "length"}, "min_words, max_words or both"),
        ({"type": "length", "min_words": 5, "max_words": 2}, "larger than"),
        ({"type": "regex", "pattern": "("}, "not a regular expression"),
        ({"type": "json_schema", "definition": {"type": 3}}, "not a JSON schema"),
        ({"type": "judge"}, "judge"),
        ({"type": "judge", "judge": "x", "kind": "hard"}, "parametric"),
        ({"type": "keyword", "concepts": ["a"]}, "keywords"),
        ({"type": "length", "max_words": 3, "weight": float("inf")}, "less than or equal"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        objective(**settings)


def test_labels_are_unique() -> None:
    ones = [objective(type="length", max_words=3), objective(type="length", min_words=1)]
    assert labels([*ones, objective(type="regex", pattern="a", name="shape")]) == [
        "length", "length_2", "shape",
    ]  # fmt: skip
