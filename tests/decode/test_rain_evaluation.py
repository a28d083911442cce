"""RAIN's self-evaluation: the questions, the labels' tokens, and how replies become a value."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivet.decode._rain_evaluation import (
    CRITERIA,
    SelfEvaluation,
    ballots,
    conversation,
    judged_value,
    label_tokens,
    value_of,
)
from trivet.errors import ContextLengthError, EngineError, UnsupportedError

HARMLESS, TRUTHFUL = CRITERIA["harmless"], CRITERIA["truthful"]
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]},
]


def test_the_two_questions_differ_in_the_order_of_the_options_alone() -> None:
    first, second = ballots(HARMLESS, CHAT, "I am a", examples=4)
    assert first.chat[:-1] == second.chat[:-1]
    one, other = first.chat[-1]["content"], second.chat[-1]["content"]
    for content in (one, other):
        assert content.startswith(HARMLESS.question)
        assert content.endswith("\n\nUser: Who are you?\nAssistant: I am a"), "a search changes the end alone"
        assert "kind" not in content
    assert f"(A) It is {HARMLESS.good}.\n(B) It is {HARMLESS.bad}." in one
    assert f"(A) It is {HARMLESS.bad}.\n(B) It is {HARMLESS.good}." in other
    assert (first.good, first.bad) == (("A",), ("B",)) and (second.good, second.bad) == (("B",), ("A",))
    assert first.opening == "(", "the letter stands where the model is to write it"


def test_each_label_is_right_in_half_of_the_examples_and_says_what_is_true() -> None:
    (ballot, _) = ballots(HARMLESS, CHAT, "", examples=4)
    shown = ballot.chat[:-1]
    replies = [message["content"] for message in shown if message["role"] == "assistant"]
    assert sorted(replies) == ["(A)", "(A)", "(B)", "(B)"]
    for asked, reply, example in zip(shown[::2], replies, HARMLESS.examples):
        meant = HARMLESS.good if example.good else HARMLESS.bad
        assert f"{reply} It is {meant}." in asked["content"]


@pytest.mark.parametrize("examples", [0, 1, 4])
def test_as_many_examples_as_are_asked_for(examples: int) -> None:
    for criterion in CRITERIA.values():
        assert len(ballots(criterion, CHAT, "x", examples=examples)[0].chat) == 2 * examples + 1


def test_truth_is_asked_for_once_with_yes_and_no() -> None:
    (ballot,) = ballots(TRUTHFUL, CHAT, "x", examples=4)
    assert (ballot.good, ballot.bad, ballot.opening) == (("Yes", "yes"), ("No", "no"), "")
    assert [m["content"] for m in ballot.chat if m["role"] == "assistant"] == ["Yes", "No", "Yes", "No"]


def test_an_answer_that_was_begun_goes_on() -> None:
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "It is"}]
    assert conversation(chat, " so", continues=True) == "User: Q\nAssistant: It is so"
    assert conversation(chat[:1], "") == "User: Q\nAssistant: "


LIKELY, UNLIKELY = math.log(0.9), math.log(0.1)


def test_votes_give_three_values_and_an_agreement_decides() -> None:
    good, bad, tie = (LIKELY, UNLIKELY), (UNLIKELY, LIKELY), (LIKELY, LIKELY)
    assert value_of([good, good], "vote") == 1
    assert value_of([good, bad], "vote") == value_of([bad, good], "vote") == 0
    assert value_of([bad, bad], "vote") == -1
    assert value_of([tie, tie], "vote") == -1, "a tie is no vote for it"
    assert [value_of([reply], "vote") for reply in (good, bad)] == [1, -1]


def test_a_preference_for_a_place_gives_0() -> None:
    # Always (A): in the first order that is the good option, in the second the bad one.
    assert value_of([(LIKELY, UNLIKELY), (UNLIKELY, LIKELY)], "vote") == 0
    assert value_of([(LIKELY, UNLIKELY), (UNLIKELY, LIKELY)], "probability") == pytest.approx(0)


def test_probabilities_are_graded() -> None:
    # good / (good + bad) = 0.9 and 0.5: 2 · 0.7 − 1
    assert value_of([(LIKELY, UNLIKELY), (LIKELY, LIKELY)], "probability") == pytest.approx(0.4)
    assert value_of([(-math.inf, 0.0)], "probability") == pytest.approx(-1)
    assert value_of([(-2000.0, -1.0)], "probability") == pytest.approx(-1)


@pytest.mark.parametrize("pair", [(math.nan, 0.0), (0.0, math.nan), (-math.inf, -math.inf)])
def test_what_is_no_probability_gives_no_value(pair: tuple[float, float]) -> None:
    assert value_of([(0.0, -1.0), pair], "vote") is None


def test_a_judges_score_is_mapped_and_clipped() -> None:
    assert [judged_value(score, 0, 1) for score in (-5, 0, 0.25, 1, 7)] == [-1, -1, -0.5, 1, 1]
    assert judged_value(2.0, 4.0, 0.0) == 0, "a judge of the opposite sense"


def test_labels_are_read_behind_their_opening() -> None:
    def encode(text: str) -> tuple[int, ...]:  # "(A" is two tokens, and A alone another one than behind "("
        return {"(": (1,), "(A": (1, 2), "(B": (1, 3), "A": (9,)}[text]

    assert label_tokens(encode, "(", ("A",)) == (2,)
    assert label_tokens(encode, "", ("A",)) == (9,)
    with pytest.raises(UnsupportedError, match=r"'\(A' in one piece"):
        label_tokens({"(": (1,), "(A": (7,)}.__getitem__, "(", ("A",))


def evaluation(**changes: Any) -> SelfEvaluation:
    values = {
        "criterion": HARMLESS, "kind": "vote", "examples": 0, "chat": CHAT,
        "encode": lambda text: tuple(text.encode()),
        "render": lambda chat: tuple(chat[-1]["content"].encode()), "context_length": None,
    }  # fmt: skip
    return SelfEvaluation(**(values | changes))


def test_the_questions_end_with_the_open_parenthesis_and_are_not_watermarked() -> None:
    asked = evaluation().questions("I am")
    assert [bytes(question.prefix).decode()[-1] for question, _ in asked] == ["(", "("]
    assert not any(question.transformed for question, _ in asked)


def reply_for(letter: str) -> np.ndarray:
    reply = np.full(256, -9.0, dtype=np.float32)
    reply[ord(letter)] = -0.1
    return reply


def test_swapping_the_order_leaves_the_value() -> None:
    evaluated = evaluation()
    asked = evaluated.questions("x")
    for letters, value in ((("A", "B"), 1), (("B", "A"), -1), (("A", "A"), 0), (("B", "B"), 0)):
        replies = [reply_for(letter) for letter in letters]
        assert evaluated.value(asked, replies) == value
        assert evaluated.value(asked[::-1], replies[::-1]) == value


def test_a_question_that_does_not_fit_is_refused_with_the_way_out() -> None:
    with pytest.raises(ContextLengthError, match="self-evaluation") as raised:
        evaluation(context_length=20, examples=4).questions("x")
    assert "fewer examples" in str(raised.value)
    with pytest.raises(ContextLengthError, match="shorten the prompt") as raised:
        evaluation(context_length=20).questions("x")
    assert "examples" not in str(raised.value), "there are none to leave out"


def test_labels_that_begin_alike_are_refused() -> None:
    with pytest.raises(EngineError, match="begin with one token"):
        evaluation(encode=lambda text: (1,) if text == "(" else (1, 5)).questions("x")


def test_the_tests_tokenizer_writes_the_letter_as_one_token(tiny_model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    found = [label_tokens(encode, "(", (letter,)) for letter in "AB"]
    assert [tokenizer.decode(list(tokens)) for tokens in found] == ["A", "B"]
