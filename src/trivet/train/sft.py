"""Supervised fine-tuning: learn to give the answers that are shown.

The first step of "Training language models to follow instructions with human feedback" (arXiv 2203.02155) and
common practice since. The model learns to predict each token of the completion from the prompt and the
tokens before it; the prompt itself is not learnt. Over all N completion tokens of a step:

    L = −(1/N) Σ log π(y_t | x, y_<t)

Cost: the tokens of prompt and completion once forward and once backward for each row and epoch; logits are
computed for completion tokens only and in chunks, and there is no padding.

Loss and gradients are those of TRL's SFTTrainer, also where a step is spread over accumulated batches or over
processes. Unlike it, no auxiliary loss of a mixture of experts is added, and rows are never joined to one
sequence (``packing``): there is no padding to save.

Rows have TRL's columns: ``prompt`` and ``completion``, ``messages``, or ``text``; the last two are learnt
whole, as with TRL, and so is everything with ``completion_only_loss: false``. Of preference pairs the chosen
answer is learnt.

::

    model: smollm2-135m-instruct
    data: rows.jsonl
    held_out: 100
    adapter: {r: 8, lora_alpha: 16}
    trainer: {learning_rate: 2.0e-4, max_steps: 100, per_device_train_batch_size: 8}
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl.trainer.sft_config import SFTConfig

from trivet.catalogue import method
from trivet.errors import ConfigError
from trivet.statistics.interval import Estimated
from trivet.statistics.means import clustered_mean
from trivet.train.batches import Example
from trivet.train.held_out import hold_out, those_seen
from trivet.train.loading import load_trainee
from trivet.train.preference_method import tell_memory
from trivet.train.preferences import asked
from trivet.train.running import TrainingContext
from trivet.train.scoring import packs, score_answers
from trivet.train.settings import TrainConfig
from trivet.train.sources import left_out_notes
from trivet.train.supervised_rows import Row, SupervisedSet, read_supervised, tokenise_supervised
from trivet.train.supervised_trainer import ExampleCollator, SupervisedTrainer

HONOURED = ("max_length", "completion_only_loss", "loss_type")


class Config(TrainConfig):
    """Those of every training method. ``trainer`` holds the fields of ``trl.SFTConfig``; its defaults hold
    too: ``max_length`` 1024, ``learning_rate`` 2e-5, ``loss_type`` nll (or dft, arXiv 2508.05629)."""

    def prompts(self, base: Path) -> frozenset[str]:
        """See ``TrainConfig.prompts``."""
        return frozenset(asked(row["prompt"]) for row in read_supervised(self.data, base=base).rows)


@method(paper=None, version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train on the rows; the checkpoint or adapter is in ``context.output``.

    Raises:
        ConfigError, DataError, ModelError: what the settings name is wrong; see where they are read.
        TrainingError: a loss or a gradient is not finite.
    """
    arguments = _arguments(config, context)
    found = read_supervised(config.data, base=context.base)
    completion_only = _completion_only(arguments.completion_only_loss, found.rows, context.where)
    rows, apart, notes = _split(found, config, arguments)
    trainee = load_trainee(
        config.model, base=context.base, adapter=config.adapter, seed=config.seed, where=context.where
    )
    options: dict[str, Any] = {"max_length": arguments.max_length, "completion_only": completion_only}
    tokenised = tokenise_supervised(rows, trainee.tokenizer, **options)
    held_out: Sequence[Example] = []
    if apart:
        judged = tokenise_supervised(apart, trainee.tokenizer, **options)
        held_out = judged.examples
        notes += [f"of those held out, {note}" for note in judged.notes()]
    context.tell([*notes, *tokenised.notes()])
    score_answers(trainee.model)
    packed = packs(trainee.model, trainee.tokenizer.vocab_size)
    tell_memory(context, trainee, tokenised, arguments.per_device_train_batch_size)
    trainer = SupervisedTrainer(
        model=trainee.model,
        args=arguments,
        train_dataset=tokenised.examples,
        eval_dataset=held_out or None,
        data_collator=ExampleCollator(packed, trainee.padding),
        processing_class=trainee.tokenizer,
        kind=arguments.loss_type,
    )
    clusters = [asked(apart[one.row]["prompt"]) for one in held_out]
    before = _loss(trainer, held_out, clusters) if held_out else None
    context.fit(trainer)
    if before is not None:
        context.facts["metrics"] = _metrics(before, _loss(trainer, held_out, clusters))
    trainer.save_model(str(context.output))
    context.facts["steps"] = trainer.state.global_step


def _arguments(config: Config, context: TrainingContext) -> Any:
    where = f"{context.where}: trainer"
    arguments = context.arguments(SFTConfig, config, HONOURED)
    if arguments.loss_type not in ("nll", "dft"):
        raise ConfigError(
            f"loss_type: {arguments.loss_type!r}", where=where, hint="this method has nll and dft"
        )
    if arguments.label_smoothing_factor:
        raise ConfigError("label_smoothing_factor: this method does not smooth labels", where=where)
    return arguments


def _completion_only(given: bool | None, rows: Sequence[Row], where: str) -> bool:
    """Whether prompts are left out of the loss; by default they are, in rows that have a completion."""
    if given and any(row["completion"] is None for row in rows):
        raise ConfigError(
            "completion_only_loss: true, but there are rows of messages or text, which have no completion",
            where=f"{where}: trainer",
            hint="leave it out, or give rows with prompt and completion",
        )
    return given is not False


def _split(found: SupervisedSet, config: Config, arguments: Any) -> tuple[list[Row], list[Row], list[str]]:
    """Rows that train, rows that are held out, and what a user should know of them."""
    notes = [f"{len(found.rows)} rows of {found.source}"]
    notes += left_out_notes(found.left_out)
    rows, apart = hold_out(found.rows, config.held_out, config.seed)
    if apart:
        notes.append(f"{len(apart)} rows held out; no prompt of theirs is trained on")
    return those_seen(rows, arguments, config.seed, notes), apart, notes


def _loss(trainer: SupervisedTrainer, examples: Sequence[Example], clusters: Sequence[str]) -> Estimated:
    """Mean negative log-likelihood of a learnt token, in nats, with a prompt's rows as one draw."""
    lengths = [len(one.answers[0]) for one in examples]
    return clustered_mean(trainer.row_losses(examples), clusters, lengths, bounds=None)


def _metrics(before: Estimated, after: Estimated) -> dict[str, Any]:
    assert before.value is not None and after.value is not None
    found: dict[str, Any] = {
        "held-out rows": after.n,
        "held-out loss per token before training": before.value,
        "held-out loss per token": after.value,
    }
    if after.interval is not None:
        found["held-out loss per token, 95 % interval"] = [after.interval.low, after.interval.high]
    return found | {"held-out perplexity": math.exp(after.value)}
