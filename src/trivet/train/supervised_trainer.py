"""The trainer of supervised fine-tuning: negative log-likelihood of completions, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from trivet.train.batches import Example, model_inputs
from trivet.train.collecting_trainer import CollectingTrainer
from trivet.train.reference import on_device

LossType = Literal["nll", "dft"]


def token_losses(logprobs: torch.Tensor, kind: LossType) -> torch.Tensor:
    """Loss of each token [tokens]: −log p, or with ``dft`` −p · log p, where p in front is a constant.

    The latter is "On the Generalization of SFT" (arXiv 2508.05629).

    Raises:
        ValueError: another kind.
    """
    if kind == "nll":
        return -logprobs
    if kind == "dft":
        return -logprobs * logprobs.detach().exp()
    raise ValueError(f"unknown loss {kind!r}")


@dataclass(frozen=True)
class ExampleCollator:
    """Batches of examples; see ``trivet.train.batches.model_inputs``."""

    packed: bool
    padding: int

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        inputs = model_inputs(examples, packed=self.packed, padding=self.padding)
        learnt = inputs["answer_tokens"]
        # transformers' Trainer counts what is learnt in the batches of one step by these names.
        return {
            "model": inputs,
            "labels": learnt,
            "shift_labels": learnt,
            "rows": [example.row for example in examples],
        }


class SupervisedTrainer(CollectingTrainer):
    """A trainer of a model that scores answers (``trivet.train.scoring.score_answers``).

    The loss is the mean over all learnt tokens of an optimiser step, whatever batches and processes they are
    spread over, as in TRL's SFTTrainer.
    """

    def __init__(self, *arguments: Any, kind: LossType = "nll", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.kind = kind
        self.model_accepts_loss_kwargs = True  # the loss is divided by the tokens of the step

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The sum of the token losses over ``num_items_in_batch``, by default the batch's own tokens.

        With ``return_outputs`` also the log-probabilities [tokens].
        """
        logprobs = model(**inputs["model"])
        losses = token_losses(logprobs, self.kind)
        if num_items_in_batch is None:
            loss = losses.mean()
        else:
            loss = losses.sum() / num_items_in_batch
            if self.args.average_tokens_across_devices:  # gradients are averaged over the processes
                loss = loss * self.accelerator.num_processes
        self.check_loss(loss, inputs["rows"])
        return (loss, {"logits": logprobs.detach()}) if return_outputs else loss

    @torch.no_grad()
    def row_losses(self, examples: Sequence[Example]) -> list[float]:
        """The mean negative log-likelihood of the learnt tokens of each example, in nats."""
        model = self.model
        training = model.training
        model.eval()
        size = self.args.per_device_eval_batch_size
        found: list[float] = []
        for start in range(0, len(examples), size):
            part = examples[start : start + size]
            inputs = on_device(self.data_collator(part)["model"], model.device)
            lengths = [len(one.answers[0]) for one in part]
            found += [-float(row.mean()) for row in model(**inputs).float().cpu().split(lengths)]
        model.train(training)
        return found
