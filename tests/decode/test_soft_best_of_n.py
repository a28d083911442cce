"""Soft best-of-n: who is chosen how often, and the exact formulas against simulation and closed forms."""

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
from trivet.decode import best_of_n
from trivet.decode.soft_best_of_n import (
    Config,
    density,
    divergence,
    divergence_estimate,
    expected_win_rate,
    program,
    weights,
    win_rate_estimate,
)
from trivet.errors import ConfigError
from trivet.judges import Verdict, unscored
from trivet.models.operations import Commit, Continuation, Extend, Judge, ProgramContext, Sampling

LEVELS = ([0.4, 0.3, 0.2, 0.1], [0.0, 1.0, 1.5, 4.0])


class LengthJudge:
    """Scores an answer by its length; an empty one cannot be scored."""

    name = "length"

    def score(self, chats: Sequence[Any]) -> list[Verdict]:
        answers = [chat[-1]["content"] for chat in chats]
        return [Verdict(float(len(answer))) if answer else unscored("empty") for answer in answers]


def drive(texts: list[str], *, beta: float = 1.0, seed: int = 0) -> tuple[str, dict[str, Any]]:
    """Run the program by hand over the given candidates; the answer and the trace."""
    context = ProgramContext(
        prompt=(1, 2), chat=[{"role": "user", "content": "Q"}], max_tokens=9, sampling=Sampling(), stop=(),
        top_logprobs=0, random=np.random.default_rng(seed), encode=lambda text: (),
        decode=lambda tokens: "", render=lambda chat: (),
    )  # fmt: skip
    judge = LengthJudge()
    running = program(Config(n=len(texts), judge="length", beta=beta), context, judge=judge)
    drawn = next(running)
    assert isinstance(drawn, Extend) and drawn.n == len(texts) and drawn.sampling.temperature == 1.0
    judged = running.send([Continuation((7,) * len(text), text, (), "stop") for text in texts])
    assert isinstance(judged, Judge)
    commit = running.send(judge.score(judged.chats))
    assert isinstance(commit, Commit)
    with pytest.raises(StopIteration):
        running.send(None)
    return commit.continuation.text, context.trace[0]


def test_candidates_are_chosen_as_often_as_their_scores_say() -> None:
    texts = ["a", "bb", "cccc"]
    counts = dict.fromkeys(texts, 0)
    for seed in range(3000):
        counts[drive(texts, beta=2.0, seed=seed)[0]] += 1
    expected = np.exp(np.array([1, 2, 4]) / 2.0)
    expected *= 3000 / expected.sum()
    statistic = sum((counts[text] - mean) ** 2 / mean for text, mean in zip(texts, expected))
    assert statistic < 13.8  # the 0.999 quantile of chi-square with 2 degrees of freedom


def test_the_trace_says_who_was_chosen_and_why() -> None:
    text, note = drive(["a", "", "ccc"], beta=1.0)
    assert (note["method"], note["judge"], note["n"], note["beta"]) == ("soft_best_of_n", "length", 3, 1.0)
    shown = note["candidates"]
    assert [one["score"] for one in shown] == [1.0, None, 3.0]
    weights = [1 / (1 + math.e**2), 0, math.e**2 / (1 + math.e**2)]
    assert [one["weight"] for one in shown] == pytest.approx(weights, abs=1e-6)
    assert shown[1]["unscored"] == "empty"
    assert text == ["a", "", "ccc"][note["chosen"]] == shown[note["chosen"]]["text"]


def test_with_no_score_at_all_the_first_is_taken_and_the_trace_says_so() -> None:
    for seed in range(20):
        _, note = drive(["", "", ""], seed=seed)
        assert note["chosen"] == 0
        assert "no candidate could be scored" in note["note"]
        assert note["win_rate_estimate"] is None and note["divergence_estimate"] is None


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=8), st.floats(1e-6, 1e6))
def test_weights_are_a_distribution_over_the_scored(scores: list[float | None], beta: float) -> None:
    shares = weights(scores, beta)
    assert shares.sum() == pytest.approx(1)
    known = [index for index, score in enumerate(scores) if score is not None]
    assert all(shares[index] == 0 for index in range(len(scores)) if index not in known) or not known
    if known:
        assert shares[max(known, key=lambda index: scores[index] or 0.0)] == shares.max()


# The exact formulas


def simulate(n: int, beta: float, runs: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Levels of ``runs`` soft choices, and the candidates' scores [runs, n]."""
    random = np.random.default_rng(7)
    probabilities, scores = map(np.array, LEVELS)
    drawn = random.choice(len(scores), p=probabilities, size=(runs, n))
    tilted = np.exp(scores[drawn] / beta)
    ends = np.cumsum(tilted / tilted.sum(1, keepdims=True), axis=1)
    chosen = (random.random((runs, 1)) > ends).sum(1).clip(max=n - 1)
    return drawn[np.arange(runs), chosen], scores[drawn]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_density_win_rate_and_divergence_agree_with_simulation(n: int, beta: float) -> None:
    probabilities, scores = map(np.array, LEVELS)
    chosen, _ = simulate(n, beta)
    shares = np.bincount(chosen, minlength=4) / len(chosen)
    exact = probabilities * density(n, *LEVELS, beta)
    error = np.sqrt(exact * (1 - exact) / len(chosen))
    assert np.all(np.abs(shares - exact) <= 4.5 * error + 1e-12)
    assert exact.sum() == pytest.approx(1, abs=1e-10)
    beaten = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    assert expected_win_rate(n, *LEVELS, beta) == pytest.approx(shares @ (beaten @ probabilities), abs=4e-3)
    measured = float(np.sum(shares * np.log(np.maximum(shares, 1e-12) / probabilities)))
    assert divergence(n, *LEVELS, beta) == pytest.approx(measured, abs=8e-3)


def test_two_candidates_in_closed_form() -> None:
    """n = 2: the level k is given with probability p_k · 2 Σ_j p_j v_k / (v_k + v_j)."""
    probabilities, scores = map(np.array, LEVELS)
    tilted = np.exp(scores / 0.7)
    expected = 2 * (tilted[:, None] / (tilted[:, None] + tilted[None, :])) @ probabilities
    assert density(2, *LEVELS, 0.7) == pytest.approx(expected, abs=1e-9)


def test_a_small_beta_is_best_of_n() -> None:
    """Without ties and with them, also where exp(r/β) would overflow."""
    probabilities = LEVELS[0]
    ends = np.cumsum([0.0, *probabilities])
    for n in (2, 4, 8):
        assert density(n, *LEVELS, 1e-3) == pytest.approx(
            (ends[1:] ** n - ends[:-1] ** n) / np.diff(ends), abs=1e-9
        )
        assert expected_win_rate(n, *LEVELS, 1e-3) == pytest.approx(
            best_of_n.expected_win_rate(n, probabilities)
        )
    fine = [1 / 100] * 100
    assert expected_win_rate(4, fine, list(range(100)), 1e-3) == pytest.approx(4 / 5, abs=2e-3)
    assert divergence(4, fine, list(range(100)), 1e-3) == pytest.approx(
        best_of_n.divergence_bound(4), abs=2e-2
    )


def test_a_large_beta_and_one_candidate_are_plain_sampling() -> None:
    for n, beta in ((8, 1e6), (1, 0.1)):
        assert density(n, *LEVELS, beta) == pytest.approx(np.ones(4), abs=1e-4)
        assert expected_win_rate(n, *LEVELS, beta) == pytest.approx(0.5, abs=1e-4)
        assert divergence(n, *LEVELS, beta) == pytest.approx(0, abs=1e-6)


def test_with_n_it_tends_to_the_tilted_distribution_at_the_papers_rate() -> None:
    """The divergence from p·exp(r/β)/Z falls like 1/n or faster."""
    probabilities, scores = map(np.array, LEVELS)
    target = probabilities * np.exp(scores / 2.0)
    target /= target.sum()
    distances = []
    for n in (8, 16, 32, 64):
        given = probabilities * density(n, *LEVELS, 2.0)
        distances.append(float(np.sum(given * np.log(given / target))))
    assert all(later <= 0.6 * before for before, later in itertools.pairwise(distances))


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 6), st.sampled_from([0.2, 1.0, 5.0])
)
def test_win_rate_and_divergence_keep_their_bounds(shares: list[int], n: int, beta: float) -> None:
    probabilities = [share / sum(shares) for share in shares]
    scores = [float(level) for level in range(len(shares))]
    rate = expected_win_rate(n, probabilities, scores, beta)
    assert 0.5 - 1e-9 <= rate <= best_of_n.expected_win_rate(n, probabilities) + 1e-9
    assert -1e-9 <= divergence(n, probabilities, scores, beta) <= math.log(n) + 1e-9


# The estimates


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_the_win_rate_estimate_is_unbiased_for_one_candidate_less(beta: float) -> None:
    _, scores = simulate(4, beta, runs=6000)
    estimates = np.array([win_rate_estimate(list(row), beta) for row in scores])
    error = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - expected_win_rate(3, *LEVELS, beta)) < 4 * error


@pytest.mark.parametrize("beta", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("n", [2, 8])
def test_the_divergence_estimate_bounds_the_divergence_on_average(n: int, beta: float) -> None:
    _, scores = simulate(n, beta, runs=3000)
    estimates = np.array([divergence_estimate(list(row), beta) for row in scores])
    assert estimates.mean() >= divergence(n, *LEVELS, beta)
    assert np.all((estimates >= -1e-9) & (estimates <= math.log(n) + 1e-9))


def test_extreme_scores_overflow_nowhere() -> None:
    assert win_rate_estimate([1e300, -1e300], 1e-3) == 0.5  # each beats or loses to the other once
    assert divergence_estimate([1e6, -1e6], 1e-6) == pytest.approx(math.log(2))
    assert weights([1e6, 1e6], 1e-6).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"n": 4}, "judge"), ({"judge": "x", "beta": 0}, "beta"), ({"judge": "x", "betta": 1}, "'beta'")],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate(catalogue.find("decode/soft_best_of_n").config, settings, where="decode")
