"""The reward of direct RLHF (arXiv 2403.02513): a judge's score of an answer that ends at its first stop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from trivet.judges import Judge
from trivet.train.rollouts import Rollout, judged

Scores = list[list[float | None]]


class DirectReward:
    """Scores of answers, whitened where asked for, less a penalty where the model did not stop.

    The penalty comes after whitening: it is in units of what is learnt from, and a batch in which no answer
    stopped does not lose it with its mean. The log has the mean of the judge's own ``score``.

    Args:
        judge: larger is better. What it could not score has no reward.
        penalty: 0 or more, in reward.
        whiten: bound of whitened scores, see ``whitened``; ``None`` leaves scores as they are.
    """

    def __init__(self, judge: Judge, penalty: float = 0.0, whiten: float | None = None) -> None:
        self.judge, self.penalty, self.whiten = judge, penalty, whiten

    def __call__(
        self, rollouts: Sequence[Rollout], note: Callable[[str, Sequence[float]], None]
    ) -> list[list[float | None]]:
        """See ``trivet.train.rollouts.Reward``."""
        scores = scores_of(self.judge, rollouts)
        note("score", known_scores(scores))
        if self.whiten is not None:
            scores = whitened(scores, self.whiten)
        return [
            [
                None if score is None else score - self.penalty * (not answer.ended)
                for answer, score in zip(one.answers, some, strict=True)
            ]
            for one, some in zip(rollouts, scores, strict=True)
        ]


def scores_of(judge: Judge, rollouts: Sequence[Rollout]) -> Scores:
    """The judge's scores of answers without the white space around them, which belongs to the transcript."""
    bare = [
        Rollout(one.prompt, tuple(replace(answer, text=answer.text.strip()) for answer in one.answers))
        for one in rollouts
    ]
    return judged(judge, bare)


def known_scores(scores: Scores) -> list[float]:
    """All that are numbers."""
    return [score for some in scores for score in some if score is not None]


def whitened(scores: Scores, bound: float) -> Scores:
    """Scores less their mean, over their standard deviation, held within ±``bound``; equal ones become 0.

    The mean is that of all answers of a step in this process. It plays no part in leave-one-out advantages;
    the division does: β is then in standard deviations of the score a nat.
    """
    known = known_scores(scores)
    if not known:
        return scores
    mean = math.fsum(known) / len(known)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in known) / len(known))

    def one(score: float) -> float:
        return min(max((score - mean) / deviation, -bound), bound) if deviation > 1e-8 else 0.0

    return [[None if score is None else one(score) for score in some] for some in scores]
