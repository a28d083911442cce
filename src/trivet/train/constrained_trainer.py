"""The trainer of HC-RLHF's candidate selection: RLOO whose return carries the price of the cost."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from trivet._files import write_json
from trivet.judges import Judge
from trivet.train.answer_costs import AnswerCosts
from trivet.train.cost_multiplier import CostMultiplier
from trivet.train.rloo_trainer import RlooTrainer
from trivet.train.rollouts import Rollout, judged
from trivet.train.safety_constraint import constrained_returns

STATE = "cost_multiplier.json"


class PricedRewards(list[float | None]):
    """The rewards of the answers to a prompt, with what is subtracted for their costs."""

    def __init__(self, rewards: Sequence[float | None], penalties: Sequence[float]) -> None:
        super().__init__(rewards)
        self.penalties = list(penalties)


class ConstrainedTrainer(RlooTrainer):
    """An ``RlooTrainer`` that also keeps the predicted bound of the mean cost within a limit.

    At each step the costs of the new answers, gathered over the processes, enter the buffer, λ moves, and the
    answers are priced. λ and the buffer lie in every checkpoint. Besides the figures of ``RlooTrainer`` it
    logs ``cost`` (mean of the step), ``predicted_bound`` (U), ``kappa`` and ``lambda`` (used in the step).

    Args:
        reward_judge: of helpfulness, say; an answer that it cannot score takes no part in a step.
        costs: of answers.
        multiplier: λ and its buffer.
    """

    def __init__(
        self,
        *arguments: Any,
        reward_judge: Judge,
        costs: AnswerCosts,
        multiplier: CostMultiplier,
        **options: Any,
    ) -> None:
        self.reward_judge, self.costs, self.multiplier = reward_judge, costs, multiplier
        self._before: tuple[int, dict[str, Any]] | None = None
        self._penalties: torch.Tensor | None = None
        super().__init__(*arguments, reward=self._price, **options)

    def _price(
        self, rollouts: Sequence[Rollout], note: Callable[[str, Sequence[float]], None]
    ) -> list[PricedRewards]:
        """Rewards and penalties of a step's answers; see ``trivet.train.rollouts.Reward``."""
        rewards, costs = judged(self.reward_judge, rollouts), self.costs(rollouts)
        known = gather_object([cost for some in costs for cost in some if cost is not None])
        step = self.state.global_step
        self._before = (step, self.multiplier.state())
        pressure = self.multiplier.observe(known, step)
        if known:
            note("cost", known)
        if pressure is None:
            return [PricedRewards(some, [0.0] * len(some)) for some in rewards]
        note("predicted_bound", [pressure.bound])
        note("kappa", [pressure.kappa])
        note("lambda", [pressure.multiplier])
        return [
            PricedRewards(
                [None if cost is None else reward for reward, cost in zip(some, prices, strict=True)],
                pressure.penalties(prices),
            )
            for some, prices in zip(rewards, costs, strict=True)
        ]

    def _inputs(self, groups: Sequence[tuple[Rollout, Sequence[float | None]]]) -> dict[str, Any]:
        penalties = [
            rewards.penalties if isinstance(rewards, PricedRewards) else [0.0] * len(rewards)
            for _, rewards in groups
        ]
        flat = torch.tensor([one for some in penalties for one in some])
        return {**super()._inputs(groups), "penalties": flat}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """See ``RlooTrainer``."""
        self._penalties = inputs["penalties"]
        return super().compute_loss(model, inputs, *arguments, **options)

    def returns(self, rewards: torch.Tensor, policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """G of each answer [answers] of the batch whose loss is computed."""
        assert self._penalties is not None
        return constrained_returns(
            rewards,
            self._penalties,
            policy,
            reference,
            beta=self.settings.beta,
            clip=self.multiplier.settings.clip,
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            state = self.multiplier.state()
            if self._before is not None and self._before[0] == self.state.global_step:
                state = self._before[1]  # the step whose costs were seen did not come to its end
            write_json(Path(output_dir) / STATE, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.multiplier.restore(json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8")))
