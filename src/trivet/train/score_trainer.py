"""The trainer of reward and cost models: one forward pass scores both answers of each pair."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trivet.train.answer_scores import score_inputs
from trivet.train.collecting_trainer import CollectingTrainer
from trivet.train.reference import on_device
from trivet.train.scored_pairs import ScoredPair

ScoreLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From scores [2 · pairs], margins [pairs] and signs [2 · pairs] to a loss: ``trivet.train.score_loss``."""


@dataclass(frozen=True)
class ScoreCollator:
    """Batches of pairs; see ``trivet.train.answer_scores.score_inputs``."""

    packed: bool
    padding: int

    def __call__(self, pairs: Sequence[ScoredPair]) -> dict[str, Any]:
        examples = [pair.example for pair in pairs]
        return {
            "model": score_inputs(examples, packed=self.packed, padding=self.padding),
            "margins": torch.tensor([pair.margin for pair in pairs]),
            "signs": torch.tensor([sign for pair in pairs for sign in pair.signs]),
            "rows": [example.row for example in examples],
        }


class ScoreTrainer(CollectingTrainer):
    """A trainer of a model that scores by its head (``trivet.train.answer_scores.score_by_head``).

    Args:
        loss: see ``ScoreLoss``.
        better: +1 where the chosen answer should have the higher score, −1 where it should have the lower.

    It logs ``accuracy``, ``margin`` and ``mean_reward``, as TRL names them.
    """

    def __init__(self, *arguments: Any, loss: ScoreLoss, better: int = 1, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.loss, self.better = loss, better
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean loss of the pairs; with ``return_outputs`` also the scores [2 · pairs]."""
        scores = model(**inputs["model"])
        loss = self.loss(scores, inputs["margins"], inputs["signs"])
        chosen, rejected = scores.detach().view(-1, 2).unbind(dim=1)
        margins = self.better * (chosen - rejected)
        figures = {"accuracy": (margins > 0).float(), "margin": margins, "mean_reward": scores}
        self.collect(model.training, figures)
        self.check_loss(loss, inputs["rows"])
        return (loss, {"logits": scores.detach()}) if return_outputs else loss

    @torch.no_grad()
    def scores(self, pairs: Sequence[ScoredPair]) -> tuple[torch.Tensor, float]:
        """The scores of pairs, float32 [pairs, 2], and their mean loss."""
        model = self.model
        model.eval()
        size = self.args.per_device_eval_batch_size
        found, total = [], 0.0
        for start in range(0, len(pairs), size):
            part = pairs[start : start + size]
            batch = self.data_collator(part)
            scores = model(**on_device(batch["model"], model.device)).cpu()
            found.append(scores.view(-1, 2))
            total += float(self.loss(scores, batch["margins"], batch["signs"])) * len(part)
        return torch.cat(found), total / len(pairs)
