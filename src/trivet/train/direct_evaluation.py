"""What direct RLHF changed, on held-out prompts: reward, divergence, length, stopping, probed words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from accelerate import PartialState

from trivet.judges import Judge, resolve
from trivet.train.direct_reward import scores_of
from trivet.train.inference_evaluation import figures, mean_score
from trivet.train.rloo_method import Prepared, held_out_answers
from trivet.train.rloo_trainer import RlooTrainer
from trivet.train.rollouts import Rollout
from trivet.train.running import TrainingContext
from trivet.train.token_probe import token_mass, token_set


class Measured(Protocol):
    """The settings that measuring reads; those of ``trivet.train.direct_rlhf``."""

    judge: Any
    evaluation_judge: Any
    evaluation_samples: int
    probe: list[str]
    seed: int


@dataclass(frozen=True)
class Before:
    """The model before training: its answers to the held-out prompts, and the mass of the probed tokens after
    each; ``tokens`` are those."""

    answers: list[Rollout]
    tokens: list[int]
    masses: list[float]


def before_training(config: Measured, context: TrainingContext, made: Prepared) -> Before:
    """Let the model answer the held-out prompts before it is trained.

    Raises:
        DataError: no probed word is a token.
    """
    answers = held_out_answers(config, context, made, "before training")
    if not config.probe:
        return Before(answers, [], [])
    tokens, rest = token_set(made.trainee.tokenizer, config.probe)
    if rest:
        context.tell([f"{len(rest)} of {len(config.probe)} probed words are no single token: not measured"])
    return Before(answers, tokens, _masses(made, tokens))


def measured(
    config: Measured, context: TrainingContext, made: Prepared, trainer: RlooTrainer, before: Before
) -> dict[str, Any]:
    """Figures by name, with intervals over prompts."""
    made.rollouts.load(trainer.accelerator.unwrap_model(trainer.model), "trained")
    with PartialState().main_process_first():
        after = held_out_answers(config, context, made, "after training")
    found: dict[str, Any] = {"held-out prompts": len(after)}
    judge = resolve(config.judge, base=context.base)
    found |= _scores(judge, f"by {judge.name}, which trained it", before.answers, after)
    if config.evaluation_judge is not None:
        other = resolve(config.evaluation_judge, base=context.base)
        found |= _scores(other, f"by {other.name}", before.answers, after)
    found |= figures("KL, nats an answer", trainer.divergences(after), None)
    for name, rollouts in (("before training", before.answers), ("after training", after)):
        answers = [answer for one in rollouts for answer in one.answers]
        found[f"tokens an answer, {name}"] = sum(len(one.tokens) for one in answers) / len(answers)
        found[f"share stopped, {name}"] = sum(one.ended for one in answers) / len(answers)
    if before.tokens:
        found |= figures("probability of probed words, before training", before.masses, (0.0, 1.0))
        found |= figures(
            "probability of probed words, after training", _masses(made, before.tokens), (0.0, 1.0)
        )
    return found


def _scores(judge: Judge, label: str, before: Sequence[Rollout], after: Sequence[Rollout]) -> dict[str, Any]:
    """Mean score before and after, and the gain on the prompts where both could be scored."""
    means = [[mean_score(some) for some in scores_of(judge, rollouts)] for rollouts in (before, after)]
    found: dict[str, Any] = {}
    for name, values in zip(("before", "after"), means, strict=True):
        known = [value for value in values if value is not None]
        found |= figures(f"score {label}, {name} training", known, None)
    pairs = [(old, new) for old, new in zip(*means, strict=True) if old is not None and new is not None]
    return found | figures(f"gain in score {label}", [new - old for old, new in pairs], None)


def _masses(made: Prepared, tokens: Sequence[int]) -> list[float]:
    contexts = [one.tokens for one in made.held_out]
    model = made.trainee.model
    return token_mass(model, contexts, tokens, packed=made.packed, padding=made.trainee.padding)
