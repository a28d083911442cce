"""What a stream shows adds up to the answer, wherever the pieces are cut."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.models.engine import Usage
from trivet.models.operations import Continuation
from trivet.models.reasoning import ReasoningMarkers
from trivet.systems.answer import Answer
from trivet.systems.server.visible_text import VisibleText
from trivet.systems.tool_calls import parse_tool_calls

MARKERS = ReasoningMarkers("<think>", "</think>")


def answer_of(raw: str, markers: ReasoningMarkers | None, opened: bool, tools: bool) -> Answer:
    text, reasoning = raw, None
    if markers is not None:
        separated = markers.separate(raw, opened=opened)
        text, reasoning = separated.text, separated.reasoning
    calls: tuple[Any, ...] = ()
    if tools:
        text, calls = parse_tool_calls(text, ["add"])
    whole = Continuation((), raw, (), "stop")
    return Answer(text, "s@0", "stop", Usage(), 0.0, whole, reasoning=reasoning, tool_calls=calls)


def shown(pieces: list[str], *, opened: bool = False, tools: bool = False, markers: Any = None) -> list[Any]:
    visible = VisibleText(markers, opened=opened, tools=tools)
    parts = [part for piece in pieces for part in visible.feed(piece)]
    return parts + visible.finish(answer_of("".join(pieces), markers, opened, tools))


def text_of(parts: list[Any], kind: str = "text") -> str:
    return "".join(text for part, text in parts if part == kind)


@given(
    st.lists(st.sampled_from(["<th", "ink>", "</think>", "a", " b", "\n", "<think>", "c d", "<"]), max_size=8)
)
def test_text_is_that_of_the_answer_but_for_white_space_before_it(pieces: list[str]) -> None:
    raw = "".join(pieces)
    first_end, first_start = raw.find("</think>"), raw.find("<think>")
    if first_end >= 0 and (first_start < 0 or first_end < first_start):
        return  # the exception that the class names
    whole = answer_of(raw, MARKERS, False, False)
    assert text_of(shown(pieces, markers=MARKERS)).lstrip() == whole.text.lstrip()


@given(st.lists(st.sampled_from(["a", " ", "\n", "<tool", "<", "[", "b"]), max_size=8))
def test_text_without_calls_is_whole_where_tools_were_offered(pieces: list[str]) -> None:
    raw = "".join(pieces)
    if "<tool_call>" not in raw:
        assert text_of(shown(pieces, tools=True)).lstrip() == raw.lstrip()


@pytest.mark.parametrize(
    "raw",
    [
        'Let me add. <tool_call>{"name": "add", "arguments": {}}</tool_call>',
        '[TOOL_CALLS][{"name": "add", "arguments": {}}]',
        '{"name": "add", "parameters": {}}',
        '<|python_tag|>{"name": "add", "parameters": {}}',
    ],
)
def test_nothing_of_a_call_is_shown(raw: str) -> None:
    for size in (1, 3, 7):
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        assert text_of(shown(pieces, tools=True)) == parse_tool_calls(raw, ["add"])[0]


def test_json_that_is_no_call_comes_at_the_end() -> None:
    visible = VisibleText(None, opened=False, tools=True)
    assert visible.feed('{"answer": 1}') == []
    assert visible.finish(answer_of('{"answer": 1}', None, False, True)) == [("text", '{"answer": 1}')]


def test_a_prompt_that_opened_the_block() -> None:
    parts = shown(["so", " it ", "is</thi", "nk>\n\nYes", ". "], opened=True, markers=MARKERS)
    assert text_of(parts, "reasoning") == "so it is"
    assert text_of(parts) == "Yes."


def test_text_is_shown_as_soon_as_it_can_be() -> None:
    visible = VisibleText(MARKERS, opened=False, tools=False)
    assert visible.feed("Hello") == [("text", "Hello")]
    assert visible.feed(" <th") == []
    assert visible.feed("e end") == [("text", " <the end")]
    assert VisibleText(None, opened=False, tools=False).feed(" x ") == [("text", " x ")]
