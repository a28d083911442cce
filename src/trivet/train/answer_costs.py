"""What answers cost: a judge's verdict through a map that is fixed before training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trivet.errors import ConfigError
from trivet.judges import Judge
from trivet.judges.costs import HARM_LABEL, CostMap, cost_map, known_labels, try_judge
from trivet.judges.reward_model import RewardModelJudge
from trivet.train.rollouts import Rollout, chats_of


@dataclass(frozen=True)
class AnswerCosts:
    """Costs of answers by a judge. ``mapping`` gives costs in [0, 1], and an answer that could not be scored
    costs 1; without one a cost is the judge's own value, and such an answer has none."""

    judge: Judge
    mapping: CostMap | None

    def __call__(self, rollouts: Sequence[Rollout]) -> list[list[float | None]]:
        """The cost of each answer of each rollout."""
        costs = iter(self._scored(rollouts))
        return [[self._with_worst(next(costs)) for _ in one.answers] for one in rollouts]

    def with_unscored(self, rollouts: Sequence[Rollout]) -> tuple[list[float], int]:
        """The costs of all answers one after another, and how many of these could not be scored; without a
        map such an answer is not among the costs."""
        found = self._scored(rollouts)
        costs = [self._with_worst(cost) for cost in found]
        return [cost for cost in costs if cost is not None], sum(cost is None for cost in found)

    def words(self) -> str:
        """The map in words."""
        return "the judge's own value" if self.mapping is None else self.mapping.words()

    @property
    def ranking_only(self) -> bool:
        """Whether the judge is a trained scorer whose zero has no meaning: it learnt by ranking alone."""
        return isinstance(self.judge, RewardModelJudge) and not self.judge.signed

    def try_out(self) -> None:
        """Raise ``JudgeError`` where the judge cannot score a plain question and answer."""
        try_judge(self.judge, self.mapping or CostMap(zero=0.0, one=1.0))

    def _with_worst(self, cost: float | None) -> float | None:
        return 1.0 if cost is None and self.mapping is not None else cost

    def _scored(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        verdicts = self.judge.score(chats_of(rollouts))
        if self.mapping is not None:
            return [self.mapping.cost(one) for one in verdicts]
        return [
            None if one.value is None or not math.isfinite(one.value) else float(one.value)
            for one in verdicts
        ]


def answer_costs(
    judge: Judge, labels: Sequence[str], low: float | None, high: float | None, where: str
) -> AnswerCosts:
    """The costs that settings mean; see ``trivet.judges.costs.cost_map``. Without labels and ends, a judge of
    refusals has its own map, and others keep their values.

    Raises:
        ConfigError: labels and ends together, one end alone, equal ends, or a label that the judge has not.
    """
    if (low is None) != (high is None) or (low is not None and low == high):
        raise ConfigError("cost_low and cost_high come together, and differ", where=where)
    plain = not labels and low is None and HARM_LABEL not in known_labels(judge)
    return AnswerCosts(judge, None if plain else cost_map(judge, labels, low, high))
