"""Streaming text: its pieces join to the whole, characters are never broken, stop strings never shown."""

from hypothesis import given
from hypothesis import strategies as st

from trivet.models.torch_engine.detokenizer import Detokenizer


def _decode(tokens: list[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(tokens).decode("utf-8", errors="replace")


def _stream(data: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    detokenizer, pieces = Detokenizer(_decode, stop), []
    for token in data:
        pieces.append(detokenizer.add(token))
        if detokenizer.stopped:
            return pieces, detokenizer
    pieces.append(detokenizer.finish())
    return pieces, detokenizer


@given(st.text(max_size=30))
def test_pieces_join_to_the_text_and_hold_whole_characters(text: str) -> None:
    pieces, detokenizer = _stream(text.encode())
    assert "".join(pieces) == text == detokenizer.text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.text("ab\u00e9", max_size=20), st.lists(st.text("ab\u00e9", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    pieces, detokenizer = _stream(text.encode(), tuple(stop))
    # What stops first, as tokens come, is the stop string that is complete first.
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    if ends:
        first_end = min(ends)[0]
        expected = text[: min(start for end, start in ends if end == first_end)]
        assert detokenizer.stopped
    else:
        expected = text
        assert not detokenizer.stopped
    assert detokenizer.text == expected
    assert "".join(pieces) == expected


def test_bytes_that_are_no_character_come_out_at_the_end() -> None:
    pieces, detokenizer = _stream(b"ok\xff")
    assert pieces == ["o", "k", "", "\ufffd"]
    assert detokenizer.text == "ok\ufffd"
