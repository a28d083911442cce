"""Candidates of HC-RLHF: the policy at some steps of training, and the choice on validation prompts."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trivet._files import sha256_file
from trivet.errors import TrainingError
from trivet.train.answer_costs import AnswerCosts
from trivet.train.constrained_trainer import ConstrainedTrainer
from trivet.train.cost_multiplier import ConstraintSettings
from trivet.train.rollouts import Rollout, judged
from trivet.train.safety_constraint import predicted_bound


@dataclass(frozen=True)
class Candidate:
    """A candidate's figures on the validation prompts, one sampled answer each.

    ``objective`` is the mean reward less β times the KL, ``bound`` the predicted bound of the safety test;
    ``rewards`` counts the answers with a reward.
    """

    step: int
    objective: float
    reward: float
    rewards: int
    kl: float
    cost: float
    deviation: float
    costs: int
    bound: float

    def figures(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Snapshots(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Keeps the trained weights after ``count`` evenly spaced steps, the last one included."""

    def __init__(self, model: Any, folder: Path, count: int) -> None:
        self._model, self._folder, self._count = model, folder, count

    def steps(self, total: int) -> list[int]:
        """The steps, of ``total``, after which weights are kept."""
        return sorted({math.ceil(total * part / self._count) for part in range(1, self._count + 1)})

    def path(self, step: int) -> Path:
        """Where the weights after a step are."""
        return self._folder / f"step-{step}.safetensors"

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Keep the weights where it is time."""
        if state.is_world_process_zero and state.global_step in self.steps(state.max_steps):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self.path(state.global_step)
            staged = path.with_suffix(".writing")
            save_file({name: value.detach().cpu().contiguous() for name, value in self._trained()}, staged)
            staged.replace(path)

    def load(self, step: int) -> str:
        """Give the model the weights after a step; returns a digest of them.

        Raises:
            TrainingError: they are not there.
        """
        if not self.path(step).is_file():
            raise TrainingError(
                f"the weights after step {step} are not there",
                where=str(self._folder),
                hint="remove the folder of the interrupted run, and train again",
            )
        kept = load_file(self.path(step))
        with torch.no_grad():
            for name, value in self._trained():
                value.copy_(kept[name])
        return sha256_file(self.path(step))

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, one) for name, one in self._model.named_parameters() if one.requires_grad]


def measured(
    trainer: ConstrainedTrainer,
    costs: AnswerCosts,
    settings: ConstraintSettings,
    step: int,
    rollouts: Sequence[Rollout],
) -> Candidate:
    """The figures of the policy that the trainer's model is, from its answers to the validation prompts."""
    rewards = [
        reward for some in judged(trainer.reward_judge, rollouts) for reward in some if reward is not None
    ]
    known, _ = costs.with_unscored(rollouts)
    enough = len(known) > 1
    mean = float(np.mean(known)) if known else math.nan
    deviation = float(np.std(known, ddof=1)) if enough else math.nan
    bound = float(predicted_bound(mean, deviation, settings.kappa(len(known)))) if enough else math.inf
    reward, kl = (
        float(np.mean(rewards)) if rewards else -math.inf,
        float(np.mean(trainer.divergences(rollouts))),
    )
    return Candidate(
        step=step,
        objective=reward - trainer.settings.beta * kl,
        reward=reward,
        rewards=len(rewards),
        kl=kl,
        cost=mean,
        deviation=deviation,
        costs=len(known),
        bound=bound,
    )


def best(candidates: Sequence[Candidate], limit: float) -> Candidate:
    """The candidate of the largest objective among those whose predicted bound is within the limit; where
    there is none, the one of the lowest bound. Of equal ones the later."""
    within = [one for one in candidates if one.bound <= limit]
    if within:
        return max(within, key=lambda one: (one.objective, one.step))
    return min(candidates, key=lambda one: (one.bound, -one.step))
