"""Tool calls are read from the formats in which open models write them; what cannot be read is reported."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from trivet.systems.tool_calls import arguments_for, native_call, parse_tool_calls

NAMES = ("add", "look_up")


@pytest.mark.parametrize(
    "text",
    [
        'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call>',
        'Let me see.<tool_call>[{"name": "add", "arguments": {"x": 1}}]</tool_call>',
        'Let me see.<tool_call>{"name": "add", "arguments": "{\\"x\\": 1}"}</tool_call>',
        'Let me see.[TOOL_CALLS][{"name": "add", "arguments": {"x": 1}}]',
        'Let me see.<tool_call>{"function": {"name": "add", "arguments": {"x": 1}}}</tool_call>',
        'Let me see.<tool_call>{"name": "add", "arguments": {"x": 1}}',
    ],
)
def test_marked_calls(text: str) -> None:
    rest, calls = parse_tool_calls(text, NAMES)
    assert rest == "Let me see."
    assert [(call.name, call.arguments, call.parse_error) for call in calls] == [("add", {"x": 1}, None)]


def test_several_calls_have_ids_of_their_own() -> None:
    block = '<tool_call>{"name": "add", "arguments": {"x": %d}}</tool_call>'
    _, calls = parse_tool_calls(block % 1 + "\n" + block % 2, NAMES)
    assert [call.arguments["x"] for call in calls] == [1, 2]
    assert len({call.id for call in calls}) == 2
    _, listed = parse_tool_calls('<tool_call>[{"name": "add"}, {"name": "look_up"}]</tool_call>', NAMES)
    assert [call.name for call in listed] == ["add", "look_up"]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "add", "parameters": {"x": 1}}',
        '<|python_tag|>{"name": "add", "parameters": {"x": 1}}',
        '[{"name": "add", "arguments": {"x": 1}}]',
    ],
)
def test_bare_json_is_a_call_where_it_names_a_tool(text: str) -> None:
    rest, calls = parse_tool_calls(text, NAMES)
    assert (rest, calls[0].name, calls[0].arguments) == ("", "add", {"x": 1})
    assert parse_tool_calls(text, ("other",)) == (text, ())


def test_bare_calls_joined_by_semicolons() -> None:
    text = '{"name": "add", "parameters": {"x": 1}}; {"name": "look_up", "parameters": {}}'
    assert [call.name for call in parse_tool_calls(text, NAMES)[1]] == ["add", "look_up"]


@pytest.mark.parametrize("text", ['{"answer": 4}', "[1, 2]", "{not json", "Plain text.", "", "{}"])
def test_other_answers_are_no_calls(text: str) -> None:
    assert parse_tool_calls(text, NAMES) == (text, ())


@pytest.mark.parametrize(
    ("body", "name", "said"),
    [
        ('{"name": "add", "arguments": {"x": }', "add", "not valid JSON"),
        ("add(1)", "unknown", "not valid JSON"),
        ('{"arguments": {}}', "unknown", "keys name and arguments"),
        ('{"name": "add", "arguments": [1]}', "add", "are an object"),
        ('{"name": "add", "arguments": "{x"}', "add", "arguments are not valid JSON"),
        ("[" * 100_000, "unknown", "could not be read"),
    ],
)
def test_a_call_that_cannot_be_read_is_reported(body: str, name: str, said: str) -> None:
    _, calls = parse_tool_calls(f"<tool_call>{body}</tool_call>", NAMES)
    assert len(calls) == 1
    assert calls[0].name == name
    assert said in (calls[0].parse_error or "")
    assert calls[0].arguments == {}


@given(st.text(max_size=60))
def test_no_text_makes_it_fail(text: str) -> None:
    for form in (text, f"<tool_call>{text}", f"[TOOL_CALLS]{text}", "{" + text):
        parse_tool_calls(form, NAMES)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans(), max_size=4))
def test_arguments_come_back_as_they_were(arguments: dict[str, object]) -> None:
    body = json.dumps({"name": "add", "arguments": arguments})
    _, calls = parse_tool_calls(f"<tool_call>{body}</tool_call>", NAMES)
    if "</tool_call>" not in body:
        assert calls[0].arguments == arguments


def test_calls_in_openais_form() -> None:
    call = native_call({"id": "c1", "function": {"name": "add", "arguments": '{"x": 1}'}})
    assert (call.id, call.name, call.arguments) == ("c1", "add", {"x": 1})
    broken = native_call({"id": "c2", "function": {"name": "add", "arguments": "{x"}})
    assert broken.parse_error is not None


def test_earlier_calls_are_given_as_the_engine_takes_them() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
    chat = [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "2"}]
    assert arguments_for("torch", chat) == chat
    as_text = arguments_for("remote", chat)
    assert as_text[0]["tool_calls"][0]["function"]["arguments"] == '{"x": 1}'
    assert arguments_for("torch", as_text) == chat
