"""What a gate lets through, holds back and replaces."""

from trivet.models.engine import GateDecision, Hooks, Request
from trivet.models.gated_answer import GatedAnswer
from trivet.models.operations import Continuation


def answer_with(*gates, shown):
    request = Request(
        chat=[{"role": "user", "content": "?"}],
        program=lambda context: iter(()),
        seed=0,
        max_tokens=1,
        hooks=Hooks(gates=gates),
        on_text=shown.append,
    )
    return GatedAnswer(request)


def hold_last_word(chat, text, final):
    return GateDecision(release=len(text) if final else text.rfind(" ") + 1)


def test_without_gates_everything_is_shown_as_it_comes():
    shown = []
    answer = answer_with(shown=shown)
    answer.append("one ")
    answer.append("two")
    assert shown == ["one ", "two"]
    assert answer.finish()[0] == "one two"


def test_a_gate_holds_text_back_until_it_passes():
    shown = []
    answer = answer_with(hold_last_word, shown=shown)
    answer.append("one tw")
    assert shown == ["one "]
    answer.append("o three")
    assert shown == ["one ", "two "]
    assert answer.finish()[0] == "one two three"
    assert "".join(shown) == "one two three"


def test_the_strictest_of_several_gates_decides():
    shown = []
    answer = answer_with(hold_last_word, lambda chat, text, final: GateDecision(release=2), shown=shown)
    answer.append("one two three")
    assert shown == ["on"]


def test_a_stop_cuts_the_answer_and_appends_the_replacement():
    shown = []

    def gate(chat, text, final):
        if "bad" in text:
            return GateDecision(release=text.index("bad"), stop=True, replacement="[removed]")
        return GateDecision(release=max(0, len(text) - 3))

    answer = answer_with(gate, shown=shown)
    answer.append("all good, then b")
    answer.append("ad things")
    text, continuation = answer.finish()
    assert answer.blocked
    assert text == "all good, then [removed]"
    assert "".join(shown) == text
    assert continuation.stop_reason == "blocked"


def test_a_gate_that_raises_blocks_and_shows_nothing_more():
    shown = []

    def gate(chat, text, final):
        if len(text) > 4:
            raise RuntimeError("secret detail")
        return GateDecision(release=len(text))

    answer = answer_with(gate, shown=shown)
    answer.append("safe")
    answer.append(" unsafe")
    text, continuation = answer.finish()
    assert (text, continuation.stop_reason) == ("safe", "blocked")
    assert shown == ["safe"]


def test_committed_continuations_are_joined():
    answer = answer_with(shown=[])
    answer.add(Continuation(tokens=(1, 2), text="ab", logprobs=(-1.0, -2.0), stop_reason="length"))
    answer.add(Continuation(tokens=(3,), text="c", logprobs=(-3.0, -4.0), stop_reason="stop"))
    text, joined = answer.finish()
    assert text == "abc"
    assert joined.tokens == (1, 2, 3)
    assert joined.logprobs == (-1.0, -2.0, -3.0, -4.0)
    assert joined.stop_reason == "stop"


def test_what_the_last_word_of_a_gate_does_not_release_is_not_in_the_answer():
    shown = []
    answer = answer_with(lambda chat, text, final: GateDecision(release=4), shown=shown)
    answer.add(Continuation((1, 2), "safe unsafe", (-1.0, -2.0), "length"))
    text, continuation = answer.finish()
    assert (text, continuation.text, continuation.stop_reason) == ("safe", "safe", "blocked")
    assert shown == ["safe"]


def test_a_negative_release_shows_nothing():
    shown = []
    answer = answer_with(lambda chat, text, final: GateDecision(release=-1), shown=shown)
    answer.append("secret")
    assert shown == []
    assert answer.finish()[0] == ""


def test_nothing_follows_a_block():
    shown = []
    gate = lambda chat, text, final: GateDecision(release=0, stop=True, replacement="No.")  # noqa: E731
    answer = answer_with(gate, shown=shown)
    answer.append("secret")
    answer.append(" and its end")
    assert answer.finish()[0] == "No." == "".join(shown)


def test_tokens_of_a_blocked_answer_do_not_show_what_was_kept_back():
    answer = answer_with(lambda chat, text, final: GateDecision(release=0, stop=True), shown=[])
    tops = (((7, -1.0), (8, -2.0)),)
    answer.add(Continuation((7,), "secret", (-1.0,), "length", tops, ({"id": "1"},)))
    text, continuation = answer.finish()
    assert text == continuation.text == ""
    assert (continuation.tokens, continuation.logprobs, continuation.top_logprobs) == ((), (), ())
    assert continuation.tool_calls == ()
    assert answer.token_count == 1


def test_a_gate_that_decides_nothing_blocks():
    shown = []
    answer = answer_with(lambda chat, text, final: None, shown=shown)
    answer.append("secret")
    assert (answer.finish()[0], shown) == ("", [])
