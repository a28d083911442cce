"""Soft best-of-n: draw n answers, keep one of them with a probability that grows with its score.

"Soft Best-of-n Sampling for Model Alignment" (arXiv 2505.03156). Candidates y_1 … y_n ~ p(· | x) are
independent draws, and the answer is candidate i with probability

    w_i = exp(r(x, y_i) / β) / Σ_j exp(r(x, y_j) / β).

β is in the judge's unit: towards 0 it is best-of-n, with a large β it is plain sampling, and as n grows the
answers tend to the tilted distribution p · exp(r/β) / Z that reinforcement learning with a
Kullback–Leibler penalty β aims at, without training. It costs what best-of-n costs: n times the tokens of one
answer plus n judge calls, and nothing can be streamed before the judge has spoken.

What it buys is known exactly once the distribution of scores is. With levels of probability p_k and score
r_k under the model, v_k = exp(r_k/β) and M(t) = Σ_j p_j exp(−t v_j), the answers have level k with
probability p_k f_k (``density``), where

    f_k = n v_k E[1 / (v_k + V_2 + … + V_n)] = n v_k ∫_0^∞ exp(−t v_k) M(t)^(n−1) dt;

from it follow the win rate against one fresh answer (``expected_win_rate``, a tie counting one half) and the
divergence from the model Σ_k p_k f_k log f_k in nats (``divergence``). What n scored candidates say of them
is in the trace of each answer: ``win_rate_estimate``, without bias, of the win rate with n − 1 candidates,
and ``divergence_estimate``, of an upper bound. The win rate is in the judge's own eyes; measure the system
with a different judge.

A candidate that the judge could not score is never chosen, unless none could be scored: then the first
candidate is the answer and the trace says so.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field
from scipy.special import logsumexp, softmax

from trivet import _validation
from trivet.catalogue import method
from trivet.decode._candidates import draw_and_score
from trivet.models.operations import Commit, Program, ProgramContext, Scorer


class Config(_validation.Config):
    """How many candidates, who judges them, how sharply the scores count, and how far answers may differ.

    ``temperature`` is that of the candidates' draws; a request that asks for a temperature above 0 of its own
    is given that one (n greedy candidates would all be the same).
    """

    n: int = Field(4, ge=1, le=1024, description="candidates drawn for each answer")
    judge: str | dict[str, Any] = Field(description="name, file or settings of the judge that chooses")
    beta: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="β: score, in the judge's unit, that is worth a factor e in probability",
    )
    temperature: float = Field(1.0, gt=0, le=10, description="of the candidates, where the request is greedy")


@method(
    paper=None,
    version=1,
    takes=("Chat", "JudgeArtifact"),
    gives=("Chat",),
    needs=("extend", "judge", "commit"),
)
def program(config: Config, context: ProgramContext, *, judge: Scorer) -> Program:
    """Draw ``n`` continuations of the prompt, score them all, commit one drawn by its score."""
    found = yield from draw_and_score(context, judge, n=config.n, temperature=config.temperature)
    shares = weights(found.scores, config.beta)
    chosen = int(context.random.choice(len(shares), p=shares))
    scores = [score for score in found.scores if score is not None]
    for shown, share in zip(found.note["candidates"], shares, strict=True):
        shown["weight"] = round(float(share), 6)
    context.trace.append(
        {
            "method": "soft_best_of_n",
            **found.note,
            "beta": config.beta,
            "chosen": chosen,
            "win_rate_estimate": win_rate_estimate(scores, config.beta) if len(scores) > 1 else None,
            "divergence_estimate": divergence_estimate(scores, config.beta) if scores else None,
        }
    )
    yield Commit(found.answers[chosen])


def weights(scores: Sequence[float | None], beta: float) -> np.ndarray:
    """Probability of each candidate, float64 [n]: exp(r/β) normalised, 0 without a score.

    Where none has a score the first one has probability 1.
    """
    known = [index for index, score in enumerate(scores) if score is not None]
    shares = np.zeros(len(scores))
    if not known:
        shares[0] = 1.0
    else:
        shares[known] = softmax(np.array([scores[index] for index in known], dtype=np.float64) / beta)
    return shares


def density(n: int, probabilities: Sequence[float], scores: Sequence[float], beta: float) -> np.ndarray:
    """How many times as often as under the model an answer of each level is given, float64 [levels].

    Args:
        n: number of candidates, 1 or more.
        probabilities: of the levels under the model, summing to 1.
        scores: of the levels, in the judge's unit.
        beta: β, in the same unit.

    The integral of the module's docstring in the variable u = log(t v_k), where its integrand is smooth and
    vanishes at both ends; only differences of scores occur, so nothing overflows however small β is.
    """
    levels = np.asarray(scores, dtype=np.float64) / beta
    shares = np.asarray(probabilities, dtype=np.float64)
    u, step = np.linspace(-40.0, 5.0, 2251, retstep=True)
    found = np.empty(len(levels))
    for index, level in enumerate(levels):
        exponents = u[:, None] + (levels - level)[None, :]
        with np.errstate(over="ignore"):
            transform = np.exp(-np.exp(exponents)) @ shares
        found[index] = n * float(np.sum(np.exp(u - np.exp(u)) * transform ** (n - 1)) * step)
    return found


def expected_win_rate(n: int, probabilities: Sequence[float], scores: Sequence[float], beta: float) -> float:
    """Probability that the answer beats one fresh draw under the same judge, a tie counting one half.

    Arguments as for ``density``.
    """
    shares, levels = np.asarray(probabilities), np.asarray(scores)
    beaten = (levels[:, None] > levels[None, :]) + 0.5 * (levels[:, None] == levels[None, :])
    return float(shares * density(n, probabilities, scores, beta) @ (beaten @ shares))


def divergence(n: int, probabilities: Sequence[float], scores: Sequence[float], beta: float) -> float:
    """Kullback–Leibler divergence of the answers from the model, in nats. Arguments as for ``density``.

    Exact also for answers: how much likelier one becomes depends on its level alone.
    """
    ratios = density(n, probabilities, scores, beta)
    given = np.asarray(probabilities) * ratios
    return float(np.sum(given[given > 0] * np.log(ratios[given > 0])))


def win_rate_estimate(scores: Sequence[float], beta: float) -> float:
    """Unbiased estimate of the win rate with n − 1 candidates, from the scores of n ≥ 2.

    Each candidate in turn is the fresh draw that the soft choice among the others is compared with.
    """
    values = np.asarray(scores, dtype=np.float64)
    total = 0.0
    for index, held in enumerate(values):
        others = np.delete(values, index)
        total += float(softmax(others / beta) @ ((others > held) + 0.5 * (others == held)))
    return total / len(values)


def divergence_estimate(scores: Sequence[float], beta: float) -> float:
    """log n minus the entropy of the weights, in nats: on average an upper bound of the divergence.

    It is the divergence of (candidates, choice) from the same candidates with a choice at random, and the
    answer is a function of the two (data-processing inequality).
    """
    logs = np.asarray(scores, dtype=np.float64) / beta
    logs = logs - logsumexp(logs)
    return float(np.log(len(logs)) + np.sum(np.exp(logs) * logs))
