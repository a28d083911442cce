"""A trainer that logs figures of its batches beside the loss."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from trivet.train.checkpoints import ResumableTrainer


class CollectingTrainer(ResumableTrainer):
    """A ``ResumableTrainer`` whose loss comes from ``compute_loss`` alone.

    What ``collect`` is given appears in the log as means since the last entry, with ``eval_`` before the name
    for held-out rows.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._collected: dict[str, dict[str, list[float]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }

    def collect(self, training: bool, figures: Mapping[str, torch.Tensor]) -> None:
        """Note the figures of a batch, averaged over the processes."""
        collected = self._collected["train" if training else "eval"]
        for name, values in figures.items():
            collected[name].append(float(self.accelerator.gather(values.detach().reshape(-1)).mean()))

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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what was collected since the last entry."""
        held_out = any(name.startswith("eval_") for name in logs)
        prefix, collected = ("eval_", self._collected["eval"]) if held_out else ("", self._collected["train"])
        means = {prefix + name: sum(values) / len(values) for name, values in collected.items() if values}
        collected.clear()
        super().log({**logs, **means}, start_time)
