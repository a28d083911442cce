"""What the methods that learn from rewards of the policy's own answers do alike: prompts, models, trainer."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from trl.trainer.rloo_config import RLOOConfig

from trivet.models.names import resolve_model
from trivet.train.held_out import hold_out, those_seen
from trivet.train.loading import Trainee, load_trainee, memory_estimate, memory_sentence
from trivet.train.preference_method import disable_dropout
from trivet.train.prompts import Prompt, read_prompts, tokenise_prompts
from trivet.train.rloo_trainer import HONOURED, RlooSettings, RlooTrainer, count_prompts
from trivet.train.rollouts import Reward, Rollout, RolloutEngine, answered
from trivet.train.running import TrainingContext
from trivet.train.sampled_answers import DRAWN, Wanted, generation_engine
from trivet.train.scoring import packs, score_answers
from trivet.train.settings import TrainConfig, anchored
from trivet.train.sources import left_out_notes


@dataclass(frozen=True)
class Prepared:
    """What training on rollouts stands on.

    ``rollouts`` answers with the weights before training until others are loaded. ``reference`` is the model
    before training, ``None`` where it is the trained one with its adapter disabled. ``packed``: whether the
    model computes a prompt once for all its answers.
    """

    arguments: RLOOConfig
    trainee: Trainee
    rollouts: RolloutEngine
    reference: Any
    packed: bool
    prompts: list[Prompt]
    held_out: list[Prompt]


def rloo_arguments(config: TrainConfig, context: TrainingContext, name: str = "checkpoints") -> RLOOConfig:
    """The trainer's arguments, with batch sizes in prompts; its checkpoints are in ``context.work / name``.

    Raises:
        ConfigError: see ``trainer_arguments`` and ``count_prompts``.
    """
    where = f"{context.where}: trainer"
    arguments = context.arguments(RLOOConfig, config, HONOURED, name)
    return count_prompts(arguments, where)


@contextmanager
def prepared(
    config: TrainConfig,
    context: TrainingContext,
    arguments: RLOOConfig,
    *,
    without: Collection[str] = (),
    stop: tuple[str, ...] = (),
    ready: Callable[[Trainee], list[str]] = lambda trainee: [],
) -> Iterator[Prepared]:
    """Read the prompts, load the models and say what was found; the generation engine lives as long as this.

    Args:
        without: digests of prompts that are set aside, and neither train nor are held out.
        stop: strings that end an answer, beside an end-of-sequence token.
        ready: called with the model that is trained before anything is made of it; returns notes to tell.

    Raises:
        DataError, ModelError, ConfigError: what the settings name is wrong; see where they are read.
    """
    room, group = arguments.max_completion_length, arguments.num_generations
    assert room is not None and group is not None  # optional in TRL's class alone
    trained, held_out, notes = _prompts(config, context, without)
    trained = those_seen(trained, arguments, config.seed, notes)
    trainee = _load(config, context, arguments, config.adapter)
    notes += ready(trainee)
    reference = None if config.adapter is not None else _load(config, context, arguments, None).model
    if reference is not None:
        reference.eval().requires_grad_(False)
    packed = packs(trainee.model, trainee.tokenizer.vocab_size)
    if reference is not None and packed:
        packs(reference, trainee.tokenizer.vocab_size)  # the same model: it takes the same batches
    model = resolve_model(anchored(config.model, context.base))
    with generation_engine(model, str(arguments.device)) as engine:
        length = engine.capabilities.context_length or 2**20
        kept, dropped = tokenise_prompts(trained, trainee.tokenizer, room=room, context_length=length)
        apart, lost = tokenise_prompts(held_out, trainee.tokenizer, room=room, context_length=length)
        notes += [f"{count} prompts dropped: {reason}" for reason, count in dropped.items()]
        notes += [f"{count} held-out prompts dropped: {reason}" for reason, count in lost.items()]
        context.tell(notes)
        _tell_memory(context, trainee, arguments, [len(one.tokens) + group * room for one in kept], reference)
        rollouts = RolloutEngine(engine, count=group, max_tokens=room, stop=stop)
        yield Prepared(arguments, trainee, rollouts, reference, packed, kept, apart)


def trainer_options(made: Prepared, prompts: list[Prompt]) -> dict[str, Any]:
    """What every trainer of the prepared model on some of its prompts is given, besides its reward."""
    return {
        "model": made.trainee.model,
        "args": made.arguments,
        "train_dataset": prompts,
        "processing_class": made.trainee.tokenizer,
        "rollouts": made.rollouts,
        "settings": RlooSettings.of(made.arguments),
        "reference": made.reference,
        "packed": made.packed,
        "padding": made.trainee.padding,
    }


def rloo_trainer(made: Prepared, reward: Reward, prompts: list[Prompt]) -> RlooTrainer:
    """A trainer of the prepared model for a reward, on some of its prompts."""
    return RlooTrainer(reward=reward, **trainer_options(made, prompts))


class Evaluated(Protocol):
    """The settings that answering held-out prompts reads."""

    evaluation_samples: int
    seed: int


def held_out_answers(config: Evaluated, context: TrainingContext, made: Prepared, name: str) -> list[Rollout]:
    """Answers of the engine's model to the held-out prompts; ``name`` is whose they are."""
    return answered(
        made.rollouts.engine,
        made.held_out,
        Wanted(config.evaluation_samples, DRAWN, made.rollouts.stop),
        max_tokens=made.rollouts.max_tokens,
        seed=config.seed + 1,
        path=context.work / "held-out" / f"{name.replace(' ', '-')}.jsonl",
        progress=lambda done, total: context.say(f"{name}: {done} of {total} held-out prompts answered"),
    )


def _load(config: TrainConfig, context: TrainingContext, arguments: RLOOConfig, adapter: Any) -> Trainee:
    trainee = load_trainee(
        config.model, base=context.base, adapter=adapter, seed=config.seed, where=context.where
    )
    if arguments.disable_dropout:
        disable_dropout(trainee.model)
    score_answers(trainee.model)
    return trainee


def _prompts(
    config: TrainConfig, context: TrainingContext, without: Collection[str]
) -> tuple[list[Prompt], list[Prompt], list[str]]:
    """The prompts that train, those that are held out, and what a user should know of them."""
    found = read_prompts(config.data, base=context.base)
    notes = [f"{len(found.prompts)} prompts of {found.source}"]
    notes += left_out_notes(found.left_out)
    rows = [{"prompt": one.chat, "row": one.row} for one in found.prompts if one.digest not in without]
    trained, apart = hold_out(rows, config.held_out, config.seed)
    if apart:
        notes.append(f"{len(apart)} prompts held out")
    return [found.prompts[row["row"]] for row in trained], [found.prompts[row["row"]] for row in apart], notes


def _tell_memory(
    context: TrainingContext, trainee: Trainee, arguments: RLOOConfig, lengths: list[int], reference: Any
) -> None:
    longest = sorted(lengths, reverse=True)
    parts = memory_estimate(trainee.model, tokens=sum(longest[: arguments.per_device_train_batch_size]))
    parts["generation engine"] = parts["weights"]
    if reference is not None:
        parts["reference"] = parts["weights"]
    context.say(memory_sentence(parts))
