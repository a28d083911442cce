"""What the methods that learn from pairs do alike: data, model, reference, training, held-out figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from pydantic import Field
from trl.trainer.dpo_config import DPOConfig

from trivet.errors import ConfigError
from trivet.models.names import resolve_model
from trivet.train.batches import Example
from trivet.train.held_out import held_out_metrics, hold_out, those_seen
from trivet.train.loading import Trainee, load_trainee, memory_estimate, memory_sentence
from trivet.train.preference_loss import LossType
from trivet.train.preference_trainer import (
    Objective,
    PairCollator,
    PreferenceExample,
    PreferenceTrainer,
)
from trivet.train.preferences import Pair, asked, read_preferences
from trivet.train.reference import reference_logprobs
from trivet.train.running import TrainingContext
from trivet.train.scoring import packs, score_answers
from trivet.train.settings import TrainConfig, anchored
from trivet.train.sources import left_out_notes
from trivet.train.tokenising import Tokenised, tokenise_pairs

HONOURED = ("beta", "loss_type", "max_length", "disable_dropout")


class PreferenceConfig(TrainConfig):
    """Settings of the methods that learn from pairs. ``trainer`` holds the fields of ``trl.DPOConfig``; its
    defaults hold too: ``beta`` 0.1, ``max_length`` 1024, ``learning_rate`` 1e-6."""

    reference: str | None = Field(
        None, description="the model that log-ratios are taken to; by default the model before training"
    )

    def inputs(self, base: Path) -> dict[str, str]:
        """See ``TrainConfig.inputs``."""
        found = super().inputs(base)
        if self.reference is not None:
            found["reference"] = resolve_model(anchored(self.reference, base)).identity
        return found

    def prompts(self, base: Path) -> frozenset[str]:
        """See ``TrainConfig.prompts``."""
        return frozenset(asked(pair["prompt"]) for pair in read_preferences(self.data, base=base).pairs)


@dataclass(frozen=True)
class Prepared:
    """What training on pairs stands on: the model, which scores answers, and the pairs with their reference.

    ``trained_pairs`` and ``held_out_pairs`` are the rows; an example's ``row`` is its place among them.
    ``packed``: whether the model computes a prompt once for both answers.
    """

    trainee: Trainee
    packed: bool
    trained: list[PreferenceExample]
    held_out: list[PreferenceExample]
    trained_pairs: Sequence[Pair]
    held_out_pairs: Sequence[Pair]


def train_on_pairs(
    config: PreferenceConfig,
    context: TrainingContext,
    *,
    alpha: float = 1.0,
    policy_only: bool = False,
) -> None:
    """Read the pairs, train the model on them, write it to ``context.output``.

    Args:
        alpha, policy_only: see ``trivet.train.preference_trainer.Objective``.

    Raises:
        ConfigError, DataError, ModelError: what the settings name is wrong; see where they are read.
        TrainingError: a loss or a gradient is not finite.
    """
    arguments = preference_arguments(config, context)
    objective = Objective(
        beta=arguments.beta,
        kind=loss_type(arguments.loss_type, context.where),
        alpha=alpha,
        policy_only=policy_only,
    )
    prepared = prepare(config, context, arguments, *read_pairs(config, context), alpha=alpha)
    trainer = preference_trainer(prepared, arguments, objective, prepared.trained, prepared.held_out)
    context.fit(trainer)
    if prepared.held_out:
        context.facts["metrics"] = held_out_metrics(trainer, prepared.held_out)
    trainer.save_model(str(context.output))
    context.facts["steps"] = trainer.state.global_step


def preference_arguments(
    config: PreferenceConfig, context: TrainingContext, name: str = "checkpoints"
) -> DPOConfig:
    """The trainer's arguments; its checkpoints are in ``context.work / name``.

    Raises:
        ConfigError: see ``trivet.train.arguments.trainer_arguments``.
    """
    arguments: DPOConfig = context.arguments(DPOConfig, config, HONOURED, name)
    return arguments


def prepare(
    config: PreferenceConfig,
    context: TrainingContext,
    arguments: Any,
    trained: list[Pair],
    held_out: list[Pair],
    notes: list[str],
    *,
    alpha: float = 1.0,
) -> Prepared:
    """Load the model, make the pairs into token ids and give them their reference; say what was found.

    Args:
        trained, held_out, notes: see ``read_pairs``.
        alpha: see ``trivet.train.preference_trainer.Objective``.
    """
    trained = those_seen(trained, arguments, config.seed, notes)
    trainee = load_trainee(
        config.model, base=context.base, adapter=config.adapter, seed=config.seed, where=context.where
    )
    if arguments.disable_dropout:
        disable_dropout(trainee.model)
    tokenised = tokenise_pairs(trained, trainee.tokenizer, max_length=arguments.max_length)
    judged = (
        tokenise_pairs(held_out, trainee.tokenizer, max_length=arguments.max_length) if held_out else None
    )
    _tell(context, notes, tokenised, alpha)
    score_answers(trainee.model)
    packed = packs(trainee.model, trainee.tokenizer.vocab_size)
    if not packed:
        context.say("this model's attention cannot share prompts: each answer is computed with its own")
    tell_memory(context, trainee, tokenised, arguments.per_device_train_batch_size)
    examples = with_reference(config, context, trainee, tokenised.examples, packed)
    evaluated = with_reference(config, context, trainee, judged.examples, packed) if judged else []
    return Prepared(trainee, packed, examples, evaluated, trained, held_out)


def preference_trainer(
    prepared: Prepared,
    arguments: Any,
    objective: Objective,
    trained: Sequence[PreferenceExample],
    held_out: Sequence[PreferenceExample],
) -> PreferenceTrainer:
    """A trainer of the prepared model for an objective on pairs."""
    return PreferenceTrainer(
        model=prepared.trainee.model,
        args=arguments,
        train_dataset=trained,
        eval_dataset=held_out or None,
        data_collator=PairCollator(prepared.packed, prepared.trainee.padding),
        processing_class=prepared.trainee.tokenizer,
        objective=objective,
    )


def read_pairs(config: TrainConfig, context: TrainingContext) -> tuple[list[Pair], list[Pair], list[str]]:
    """The pairs that train, those that are held out, and what a user should know of them."""
    found = read_preferences(config.data, base=context.base)
    notes = [f"{len(found.pairs)} pairs of {found.source}"]
    notes += left_out_notes(found.left_out)
    trained, held_out = hold_out(found.pairs, config.held_out, config.seed)
    if held_out:
        notes.append(f"{len(held_out)} pairs held out; no prompt of theirs is trained on")
    return trained, held_out, notes


def with_reference(
    config: PreferenceConfig,
    context: TrainingContext,
    trainee: Trainee,
    examples: Sequence[Example],
    packed: bool,
) -> list[PreferenceExample]:
    """The examples with the reference's log-probabilities, from the cache where they were computed before."""
    if config.reference is not None:
        known = logprobs_of(config.reference, "reference", context, trainee, examples, config.seed)
    else:
        with PartialState().main_process_first():  # the others find it on the disk
            known = reference_logprobs(
                trainee.model, examples, identity=trainee.identity, packed=packed, padding=trainee.padding
            )
    return [PreferenceExample(one, values) for one, values in zip(examples, known, strict=True)]


def logprobs_of(
    name: str, key: str, context: TrainingContext, trainee: Trainee, examples: Sequence[Example], seed: int
) -> list[torch.Tensor]:
    """Log-probabilities of the answers' tokens under another model, loaded for it; kept on disk by content.

    Args:
        name: of the model; ``key`` is where the settings name it.

    Raises:
        ConfigError: its vocabulary is not the trained model's.
    """
    other = load_trainee(name, base=context.base, adapter=None, seed=seed, where=context.where)
    if other.tokenizer.get_vocab() != trainee.tokenizer.get_vocab():
        raise ConfigError(
            f"{key}: its vocabulary is not the model's",
            where=context.where,
            hint="the log-ratio of a token needs both models to know it",
        )
    score_answers(other.model)
    packed = packs(other.model, other.tokenizer.vocab_size)
    with PartialState().main_process_first():
        return reference_logprobs(
            other.model, examples, identity=other.identity, packed=packed, padding=trainee.padding
        )


def loss_type(given: Any, where: str) -> LossType:
    """The one loss that ``loss_type`` of the trainer's arguments names.

    Raises:
        ConfigError: another loss, or several.
    """
    kinds = [given] if isinstance(given, str) else list(given)
    if len(kinds) != 1 or kinds[0] not in ("sigmoid", "hinge"):
        raise ConfigError(
            f"loss_type: {given!r}", where=f"{where}: trainer", hint="this method has sigmoid and hinge"
        )
    return "sigmoid" if kinds[0] == "sigmoid" else "hinge"


def disable_dropout(model: Any) -> None:
    """Let no unit of the model be dropped, as TRL's trainers of preferences have it."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _tell(context: TrainingContext, notes: list[str], tokenised: Tokenised, alpha: float) -> None:
    notes = [*notes, *tokenised.notes()]
    if alpha != 1:
        unequal = sum(len(one.answers[0]) != len(one.answers[1]) for one in tokenised.examples)
        notes.append(f"the two answers differ in length in {unequal} of {len(tokenised.examples)} pairs")
    context.tell(notes)


def tell_memory(context: TrainingContext, trainee: Trainee, tokenised: Tokenised, batch: int) -> None:
    """Say what a step on the longest examples will take."""
    longest = sorted((one.length for one in tokenised.examples), reverse=True)[:batch]
    parts = memory_estimate(trainee.model, tokens=sum(longest))
    context.say(memory_sentence(parts))
