"""The trainer of the methods that learn from preference pairs: one forward pass for both answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trivet.train.batches import Example, model_inputs, owners
from trivet.train.collecting_trainer import CollectingTrainer
from trivet.train.preference_loss import (
    LossType,
    answer_sums,
    length_weights,
    pair_logits,
    pair_losses,
)


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """A pair with what stays as it is: ``reference``, the log-probability of each answer token under
    the reference, chosen then rejected; ``margins`` (chosen, rejected), subtracted from the rewards;
    ``weight``, by which its loss is multiplied. Margins are those of all pairs or of none."""

    example: Example
    reference: torch.Tensor
    margins: tuple[float, float] | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Objective:
    """The loss. ``beta``: weight of the log-ratios; ``alpha``: of the tokens beyond the shorter answer;
    ``policy_only``: the reference's tokens all count fully, as LLaMA-Factory and TRL's first version have it.
    """

    beta: float
    kind: LossType = "sigmoid"
    alpha: float = 1.0
    policy_only: bool = False


@dataclass(frozen=True)
class PairCollator:
    """Batches of pairs; see ``trivet.train.batches.model_inputs``."""

    packed: bool
    padding: int

    def __call__(self, pairs: Sequence[PreferenceExample]) -> dict[str, Any]:
        examples = [pair.example for pair in pairs]
        margins = [value for pair in pairs if pair.margins is not None for value in pair.margins]
        return {
            "model": model_inputs(examples, packed=self.packed, padding=self.padding),
            "owners": owners(examples),
            "reference": torch.cat([pair.reference for pair in pairs]),
            "margins": torch.tensor(margins) if margins else None,
            "weights": torch.tensor([pair.weight for pair in pairs]),
            "rows": [example.row for example in examples],
        }


class PreferenceTrainer(CollectingTrainer):
    """A trainer of transformers whose loss is an ``Objective`` on preference pairs.

    The model must score answers (``trivet.train.scoring.score_answers``). It logs, under TRL's names,
    ``rewards/chosen``, ``rewards/rejected``, ``rewards/margins``, ``rewards/accuracies`` (with the weights of
    the objective) and ``logps/chosen``, ``logps/rejected`` (without).
    """

    def __init__(self, *arguments: Any, objective: Objective, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.objective = objective
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean loss of the pairs; with ``return_outputs`` also the logits of the pairs."""
        objective = self.objective
        owner, reference = inputs["owners"], inputs["reference"]
        logprobs = model(**inputs["model"])
        weights = None if objective.alpha == 1 else length_weights(owner, objective.alpha)
        policy = answer_sums(logprobs, owner, weights)
        fixed = answer_sums(reference, owner, None if objective.policy_only else weights)
        rewards = objective.beta * (policy - fixed)
        logits = pair_logits(rewards, inputs["margins"])
        loss = (inputs["weights"] * pair_losses(logits, objective.kind)).mean()
        self.collect(model.training, _figures(rewards, answer_sums(logprobs, owner, None)))
        self.check_loss(loss, inputs["rows"])
        return (loss, {"logits": logits.detach()}) if return_outputs else loss


def _figures(rewards: torch.Tensor, sums: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is logged of the rewards and the summed log-probabilities of answers [2 · pairs]."""
    chosen, rejected = rewards.view(-1, 2).unbind(dim=1)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "logps/chosen": sums.view(-1, 2)[:, 0],
        "logps/rejected": sums.view(-1, 2)[:, 1],
    }
