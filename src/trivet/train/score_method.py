"""What reward and cost models do alike: data, classifier, training, held-out figures, facts for a judge."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import Field
from transformers import set_seed
from trl.trainer.reward_config import RewardConfig

from trivet._files import write_json
from trivet.judges.head_fit import prompts_of
from trivet.models.classifiers import load_classifier, padding_of
from trivet.models.names import resolve_model
from trivet.train.answer_scores import score_by_head
from trivet.train.held_out import hold_out, those_seen
from trivet.train.loading import (
    Trainee,
    refuse_adapter_on_adapter,
    training_dtype,
    weights_folder,
    with_new_adapter,
)
from trivet.train.preference_method import disable_dropout, tell_memory
from trivet.train.preferences import Pair, PreferenceSet, asked, read_preferences
from trivet.train.running import TrainingContext
from trivet.train.score_metrics import metrics, ranking, signs
from trivet.train.score_trainer import ScoreCollator, ScoreLoss, ScoreTrainer
from trivet.train.scored_pairs import COLUMNS, ScoredPair, from_responses, scored_pairs
from trivet.train.scoring import packs
from trivet.train.settings import TrainConfig, anchored
from trivet.train.sources import left_out_notes

PROMPTS = "training_prompts.json"
"""The file with the digests of the prompts that the scorer was trained on."""


class ScorerConfig(TrainConfig):
    """Settings of reward and cost models. ``trainer`` holds the fields of ``trl.RewardConfig``; its defaults
    hold too: ``max_length`` 1024, ``learning_rate`` 1e-4."""

    objective: str = Field("reward", description="what a larger score means more of; the judge's objective")

    def prompts(self, base: Path) -> frozenset[str]:
        """See ``TrainConfig.prompts``."""
        return frozenset(asked(pair["prompt"]) for pair in self.read(base).pairs)

    def read(self, base: Path) -> PreferenceSet:
        """The pairs, with margins, safety labels and categories where rows have them."""
        raise NotImplementedError


def read_scored(source: str, base: Path, *, better: str) -> PreferenceSet:
    """Pairs with their further columns; ``better`` says which response of PKU-SafeRLHF's rows is chosen."""
    return read_preferences(source, base=base, columns=COLUMNS, convert=partial(_convert, better))


def _convert(better: str, row: dict[str, Any], place: str) -> dict[str, Any]:
    return from_responses(row, place, better)


def train_scorer(
    config: ScorerConfig,
    context: TrainingContext,
    *,
    loss_of: Callable[[RewardConfig, Sequence[ScoredPair]], ScoreLoss],
    better: int,
    honoured: tuple[str, ...],
) -> None:
    """Read the pairs, train a sequence classifier with one output on them, write it to ``context.output``.

    Args:
        loss_of: gives the loss, from the trainer's arguments and the pairs that train.
        better: +1 where the chosen answer should have the higher score, −1 where it should have the lower.
        honoured: fields of ``trl.RewardConfig`` that are taken up, beyond transformers' own.

    Raises:
        ConfigError, DataError, ModelError: what the settings name is wrong; see where they are read.
        TrainingError: a loss or a gradient is not finite.
    """
    arguments = context.arguments(RewardConfig, config, honoured)
    read = config.read(context.base)
    notes = [f"{len(read.pairs)} pairs of {read.source}"]
    notes += left_out_notes(read.left_out)
    kept, apart = hold_out(read.pairs, config.held_out, config.seed)
    if apart:
        notes.append(f"{len(apart)} pairs held out; no prompt of theirs is trained on")
    kept = those_seen(kept, arguments, config.seed, notes)
    trainee = load_scorer(config, context)
    if arguments.disable_dropout:
        disable_dropout(trainee.model)
    options = {"max_length": arguments.max_length, "padding": trainee.padding}
    trained, tokenised = scored_pairs(kept, trainee.tokenizer, **options)
    held_out: list[ScoredPair] = []
    if apart:
        held_out, judged = scored_pairs(apart, trainee.tokenizer, **options)
        notes += [f"of those held out, {note}" for note in judged.notes()]
    loss = loss_of(arguments, trained)
    context.tell([*notes, *tokenised.notes(), *context.facts.pop("notes", [])])
    score_by_head(trainee.model)
    packed = packs(trainee.model, trainee.tokenizer.vocab_size)
    if not packed:
        context.say("this model's attention cannot share prompts: each answer is computed with its own")
    tell_memory(context, trainee, tokenised, arguments.per_device_train_batch_size)
    trainer = ScoreTrainer(
        model=trainee.model,
        args=arguments,
        train_dataset=trained,
        eval_dataset=held_out or None,
        data_collator=ScoreCollator(packed, trainee.padding),
        processing_class=trainee.tokenizer,
        loss=loss,
        better=better,
    )
    context.fit(trainer)
    quality = _quality(trainer, context, held_out, apart, read.source) if held_out else {}
    signed = any(sign for pair in trained for sign in pair.signs) and better < 0
    context.facts["judge"] = {
        "objective": config.objective,
        "signed": signed,
        "texts": isinstance(kept[0]["prompt"], str),
        "quality": quality,
    }
    context.facts["steps"] = trainer.state.global_step
    trainer.save_model(str(context.output))
    if PartialState().is_main_process:
        write_json(context.output / PROMPTS, sorted(_digests(kept[one.example.row] for one in trained)))


def load_scorer(config: TrainConfig, context: TrainingContext) -> Trainee:
    """The classifier that is trained, float32 on a CPU; its head, and an adapter, drawn by the seed.

    Raises:
        ModelError: there is no such model, or it does not load.
        UnsupportedError: it is an endpoint or a GGUF file.
        ConfigError: the adapter does not fit the model.
    """
    reference = resolve_model(anchored(config.model, context.base))
    weights_folder(reference, where=f"{context.where}: model {config.model}")
    set_seed(config.seed)
    model, tokenizer = load_classifier(reference, dtype=training_dtype(), new_head=True)
    model.requires_grad_(True)  # PEFT freezes what an adapter is merged into
    padding = padding_of(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    model.config.get_text_config().pad_token_id = padding  # says where the score is read
    if config.adapter is not None:
        where = f"{context.where}: adapter"
        refuse_adapter_on_adapter(reference, config.adapter, where)
        model = with_new_adapter(model, config.adapter, where=where, task="SEQ_CLS")
    return Trainee(model, tokenizer, reference.identity, config.model)


def _quality(
    trainer: ScoreTrainer,
    context: TrainingContext,
    held_out: Sequence[ScoredPair],
    pairs: Sequence[Pair],
    source: str,
) -> dict[str, Any]:
    scores, loss = trainer.scores(held_out)
    clusters = [asked(pairs[one.example.row]["prompt"]) for one in held_out]
    right = trainer.better * (scores[:, 0] - scores[:, 1]) > 0
    quality = {
        "population": f"held-out pairs of {source}",
        "n": len(held_out),
        **ranking(right, clusters, held_out),
        **(signs(scores, clusters, held_out) if trainer.better < 0 else {}),
    }
    context.facts["metrics"] = metrics(quality, loss)
    return quality


def _digests(pairs: Iterable[Pair]) -> set[str]:
    """Of every message of a user, since any may be a prompt of an evaluation."""
    found: set[str] = set()
    for pair in pairs:
        found |= {asked(pair["prompt"])} if isinstance(pair["prompt"], str) else prompts_of(pair)
    return found
