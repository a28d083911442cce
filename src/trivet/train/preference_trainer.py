"""The trainer of the methods that learn from preference pairs: one forward pass for both answers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from trivet.train.batches import Example, model_inputs, owners
from trivet.train.checkpoints import ResumableTrainer
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


class PreferencePairs(Dataset[PreferenceExample]):
    """The pairs as a data set of torch."""

    def __init__(self, examples: Sequence[PreferenceExample]) -> None:
        self.examples = list(examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> PreferenceExample:
        return self.examples[index]


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


class PreferenceTrainer(ResumableTrainer):
    """A trainer of transformers whose loss is an ``Objective`` on preference pairs.

    The model must score answers (``trivet.train.scoring.score_answers``). It logs, under TRL's names,
    ``rewards/chosen``, ``rewards/rejected``, ``rewards/margins``, ``rewards/accuracies`` (with the weights of
    the objective) and ``logps/chosen``, ``logps/rejected`` (without).
    """

    def __init__(self, *arguments: Any, objective: Objective, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.objective = objective
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs
        self._collected: dict[str, dict[str, list[float]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }

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
        self._collect(model.training, rewards.detach(), logprobs.detach(), owner)
        self.check_loss(loss, inputs["rows"])
        return (loss, {"logits": logits.detach()}) if return_outputs else loss

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """The loss of a held-out batch."""
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def _collect(
        self, training: bool, rewards: torch.Tensor, logprobs: torch.Tensor, owner: torch.Tensor
    ) -> None:
        chosen, rejected = rewards.view(-1, 2).unbind(dim=1)
        sums = answer_sums(logprobs, owner, None).view(-1, 2)
        found = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "logps/chosen": sums[:, 0],
            "logps/rejected": sums[:, 1],
        }
        collected = self._collected["train" if training else "eval"]
        for name, values in found.items():
            collected[name].append(float(self.accelerator.gather(values).mean()))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what was collected since the last entry."""
        held_out = any(name.startswith("eval_") for name in logs)
        prefix, collected = ("eval_", self._collected["eval"]) if held_out else ("", self._collected["train"])
        means = {prefix + name: sum(values) / len(values) for name, values in collected.items() if values}
        collected.clear()
        super().log({**logs, **means}, start_time)
