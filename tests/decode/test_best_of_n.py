"""Best-of-n: which candidate is chosen, what the trace says, and the closed forms."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from trivet import catalogue
from trivet._validation import validate
from trivet.decode.best_of_n import Config, choose, divergence_bound, expected_win_rate, program
from trivet.errors import ConfigError
from trivet.judges import Verdict, unscored
from trivet.models.operations import Commit, Continuation, Extend, Judge, ProgramContext, Sampling


class LengthJudge:
    """Scores an answer by its length; an empty one cannot be scored."""

    name = "length"

    def score(self, chats: Sequence[Any]) -> list[Verdict]:
        answers = [chat[-1]["content"] for chat in chats]
        return [Verdict(float(len(answer))) if answer else unscored("empty") for answer in answers]


def drive(texts: list[str], *, temperature: float = 0.0, visible: Any = str) -> tuple[list[Any], list[Any]]:
    """Run the program by hand over the given candidates; returns its operations and its trace."""
    context = ProgramContext(
        prompt=(1, 2), chat=[{"role": "user", "content": "Q"}], max_tokens=9,
        sampling=Sampling(temperature=temperature, top_p=0.9), stop=(), top_logprobs=0,
        random=np.random.default_rng(0), encode=lambda text: (), decode=lambda tokens: "",
        render=lambda chat: (), visible=visible,
    )  # fmt: skip
    judge = LengthJudge()
    running = program(Config(n=len(texts), judge="length"), context, judge=judge)
    operations = [next(running)]
    operations.append(running.send([Continuation((7,) * len(t), t, (), "stop") for t in texts]))
    operations.append(running.send(judge.score(operations[-1].chats)))
    with pytest.raises(StopIteration):
        running.send(None)
    return operations, context.trace


def test_the_candidate_that_the_judge_scores_highest_is_committed() -> None:
    (extend, judged, commit), trace = drive(["a", "abc", "ab"])
    assert isinstance(extend, Extend) and isinstance(judged, Judge) and isinstance(commit, Commit)
    assert (extend.prefix, extend.n, extend.commit) == ((1, 2), 3, False)
    assert commit.continuation.text == "abc"
    assert judged.chats[1] == [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "abc"},
    ]
    assert trace == [
        {
            "method": "best_of_n", "n": 3, "judge": "length", "temperature": 1.0, "chosen": 1,
            "candidates": [
                {"text": "a", "tokens": 1, "score": 1.0},
                {"text": "abc", "tokens": 3, "score": 3.0},
                {"text": "ab", "tokens": 2, "score": 2.0},
            ],
            "expected_win_rate": 0.75, "divergence_bound": pytest.approx(math.log(3) - 2 / 3),
        }
    ]  # fmt: skip


def test_greedy_requests_draw_at_the_methods_temperature_and_others_at_their_own() -> None:
    assert drive(["a"])[0][0].sampling == Sampling(temperature=1.0, top_p=0.9)
    assert drive(["a"], temperature=0.3)[0][0].sampling.temperature == 0.3


def test_a_candidate_that_could_not_be_scored_is_not_chosen() -> None:
    operations, trace = drive(["", "a", ""])
    assert operations[2].continuation.text == "a"
    assert [shown.get("unscored") for shown in trace[0]["candidates"]] == ["empty", None, "empty"]
    assert trace[0]["expected_win_rate"] == 0.5  # one scored candidate is one plain draw


def test_with_no_score_at_all_the_first_is_taken_and_the_trace_says_so() -> None:
    operations, trace = drive(["", ""])
    assert operations[2].continuation is not None
    assert trace[0]["chosen"] == 0
    assert "no candidate could be scored" in trace[0]["note"]


def test_the_judge_sees_only_what_people_see() -> None:
    operations, _ = drive(["<t>long thought</t>a", "ab"], visible=lambda text: text.split("</t>")[-1])
    assert [chat[-1]["content"] for chat in operations[1].chats] == ["a", "ab"]
    assert operations[2].continuation.text == "ab"


@given(st.lists(st.none() | st.integers(-3, 3), min_size=1, max_size=8))
def test_choose_takes_the_first_of_the_largest(scores: list[int | None]) -> None:
    best = choose(scores)
    known = [score for score in scores if score is not None]
    if not known:
        assert best == 0
    else:
        assert scores[best] == max(known)
        assert best == scores.index(max(known))


def test_the_divergence_bound_has_the_values_of_the_closed_form() -> None:
    # log n − (n − 1)/n for n = 1, 2, 4, 8
    assert [divergence_bound(n) for n in (1, 2, 4, 8)] == pytest.approx(
        [0.0, 0.19314718, 0.63629436, 1.20444154]
    )


@given(st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_win_rate_with_ties_equals_enumeration(n: int, weights: list[int]) -> None:
    total = sum(weights)
    probabilities = [weight / total for weight in weights]
    levels = range(len(weights))
    expected = 0.0
    for draw in itertools.product(levels, repeat=n):
        chance = math.prod(probabilities[level] for level in draw)
        for other in levels:
            half = 1.0 if max(draw) > other else 0.5 if max(draw) == other else 0.0
            expected += chance * probabilities[other] * half
    assert expected_win_rate(n, probabilities) == pytest.approx(expected)


def test_without_ties_the_win_rate_tends_to_n_over_n_plus_1() -> None:
    fine = [1 / 5000] * 5000
    for n in (1, 2, 4, 8):
        assert expected_win_rate(n, fine) == pytest.approx(n / (n + 1), abs=1e-3)
        assert expected_win_rate(n) == n / (n + 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 4}, "judge"),
        ({"n": 0, "judge": "x"}, "n: "),
        ({"judge": "x", "temperature": 0}, "temperature"),
        ({"judge": "x", "temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    entry = catalogue.find("decode/best_of_n")
    with pytest.raises(ConfigError, match=said):
        validate(entry.config, settings, where="decode")
