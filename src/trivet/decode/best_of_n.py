"""Best-of-n: draw n answers, keep the one that a judge scores highest.

Candidates y_1 … y_n ~ p(· | x) are independent draws at one temperature; the answer is
y_{argmax_i r(x, y_i)}. It needs no training and no gradient, and costs n times the tokens of one answer plus
n judge calls; nothing can be streamed before the judge has spoken.

What it buys is known exactly. Let u be the quantile of an answer's score among the model's own answers. For
scores without ties the best of n has density n·u^(n−1) on [0, 1], so

- its expected win rate against one fresh answer of the same model, under the same judge, is n / (n + 1)
  (``expected_win_rate`` gives the value with ties, a tie counting one half);
- its Kullback–Leibler divergence from the model is log n − (n − 1)/n nats, an upper bound where there are
  ties (``divergence_bound``).

Sources: the inference-time view and the closed forms, "InfAlign: Inference-aware language model alignment"
(arXiv 2412.19792); the bound, "Theoretical guarantees on the best-of-n alignment policy" (arXiv 2401.01879,
Theorem 1).

A candidate that the judge could not score is never chosen, unless none could be scored: then the first
candidate is the answer and the trace says so. Between equal scores the first candidate wins. The win rate is
in the judge's own eyes; measure the system with a different judge.
"""

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from trivet import _validation
from trivet.catalogue import method
from trivet.decode._candidates import draw_and_score
from trivet.models.operations import Commit, Program, ProgramContext, Scorer


class Config(_validation.Config):
    """How many candidates, who judges them, and how far they may differ.

    ``temperature`` is that of the candidates' draws; a request that asks for a temperature above 0 of its own
    is given that one (n greedy candidates would all be the same).
    """

    n: int = Field(4, ge=1, le=1024, description="candidates drawn for each answer")
    judge: str | dict[str, Any] = Field(description="name, file or settings of the judge that chooses")
    temperature: float = Field(1.0, gt=0, le=10, description="of the candidates, where the request is greedy")


@method(
    paper=None,
    version=1,
    takes=("Chat", "JudgeArtifact"),
    gives=("Chat",),
    needs=("extend", "judge", "commit"),
)
def program(config: Config, context: ProgramContext, *, judge: Scorer) -> Program:
    """Draw ``n`` continuations of the prompt, score them all, commit the best."""
    found = yield from draw_and_score(context, judge, n=config.n, temperature=config.temperature)
    best = choose(found.scores)
    scored = max(sum(score is not None for score in found.scores), 1)
    context.trace.append(
        {
            "method": "best_of_n",
            **found.note,
            "chosen": best,
            "expected_win_rate": expected_win_rate(scored),
            "divergence_bound": divergence_bound(scored),
        }
    )
    yield Commit(found.answers[best])


def choose(scores: Sequence[float | None]) -> int:
    """Index of the largest score, the first among equals; 0 where nothing was scored."""
    best = 0
    for index, score in enumerate(scores):
        held = scores[best]
        if score is not None and (held is None or score > held):
            best = index
    return best


def divergence_bound(n: int) -> float:
    """Kullback–Leibler divergence of best-of-n from the model, in nats: log n − (n − 1)/n.

    Exact where scores have no ties, an upper bound otherwise (arXiv 2401.01879, Theorem 1).
    """
    return math.log(n) - (n - 1) / n


def expected_win_rate(n: int, probabilities: Sequence[float] | None = None) -> float:
    """Probability that the best of n beats one fresh draw under the same judge, a tie counting one half.

    Args:
        n: number of candidates, 1 or more.
        probabilities: of the judge's levels under the model, lowest level first, summing to 1. ``None`` means
            scores without ties, for which it is n / (n + 1).

    With levels of cumulative probability F_k the best is at level k with probability F_k^n − F_{k−1}^n, and
    wins there with probability F_{k−1} + p_k / 2.
    """
    if probabilities is None:
        return n / (n + 1)
    below, rate = 0.0, 0.0
    for probability in probabilities:
        upto = below + probability
        rate += (upto**n - below**n) * (below + probability / 2)
        below = upto
    return rate
