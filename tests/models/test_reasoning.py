"""Reasoning blocks are separated, whole or streamed, closed or cut off."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from trivet.models.reasoning import ReasoningMarkers, ReasoningStream

THINK = ReasoningMarkers("<think>", "</think>")


@pytest.mark.parametrize(
    ("raw", "text", "reasoning", "closed"),
    [
        ("Paris.", "Paris.", None, True),
        ("<think>France…</think>\n\nParis.", "Paris.", "France…", True),
        ("<think>\n\n</think>\n\nParis.", "Paris.", "", True),
        ("<think>France and then", "", "France and then", False),
        ("<think>a</think>b<think>c</think>d", "bd", "a\nc", True),
        ("so far</think>Paris.", "Paris.", "so far", True),
        ("", "", None, True),
    ],
)
def test_blocks_are_taken_out(raw: str, text: str, reasoning: str | None, closed: bool) -> None:
    separated = THINK.separate(raw)
    assert (separated.text, separated.reasoning, separated.closed) == (text, reasoning, closed)


def test_a_block_that_the_prompt_opened_is_reasoning_from_the_first_character() -> None:
    assert THINK.separate("still thinking", opened=True).text == ""
    assert THINK.separate("still</think>Paris", opened=True).text == "Paris"
    assert THINK.separate("<think>again</think>Paris", opened=True).reasoning == "again"


def test_spans_cover_the_blocks_with_their_markers() -> None:
    raw = "a<think>b</think>c<think>d"
    spans = THINK.separate(raw).spans
    assert [raw[start:end] for start, end in spans] == ["<think>b</think>", "<think>d"]


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "th", "x", " y", "</", "nk>"]), max_size=12),
    st.integers(1, 4),
)
def test_streaming_gives_the_same_parts_however_it_is_cut(pieces: list[str], width: int) -> None:
    raw = "".join(pieces)

    def collect(cuts: list[str]) -> tuple[str, str]:
        stream, parts = ReasoningStream(THINK), []
        for cut in cuts:
            parts += stream.feed(cut)
        parts += stream.finish()
        return (
            "".join(text for kind, text in parts if kind == "text"),
            "".join(text for kind, text in parts if kind == "reasoning"),
        )

    whole = collect([raw])
    assert collect([raw[start : start + width] for start in range(0, len(raw), width)]) == whole
    assert len(whole[0]) + len(whole[1]) <= len(raw)


def test_a_possible_marker_is_held_back_until_it_is_clear() -> None:
    stream = ReasoningStream(THINK)
    assert stream.feed("a<th") == [("text", "a")]
    assert stream.feed("ing>") == [("text", "<thing>")]
    assert ReasoningStream(None).feed("<think>") == [("text", "<think>")]
