"""Inference-aware alignment: train for what will be done with the answers (InfAlign, by CTRL).

Balashankar and others, "InfAlign: Inference-aware language model alignment" (arXiv 2412.19792). Training
usually takes one answer to be shown; but the best of n may be picked, or an attacker may try n times and keep
the worst. Optimal for the win rate after such a procedure, at a price β for each nat from the reference, is
again reinforcement learning, with another reward: the quantile C(x, y) of the answer's score among the
reference's own answers to the prompt, put through a transform Φ that depends on the procedure alone:

    max_π  E Φ(C(x, y)) − β KL(π ‖ π_ref)
    C(x, y) = (1/K) Σ_i [ s(y) > s(z_i) ] + ½ [ s(y) = s(z_i) ],    z_i ~ π_ref

which is "calibrate and transform RL"; here by REINFORCE with a leave-one-out baseline, which keeps the scale
of the reward. With ``rescale`` (see ``inference_transforms.best_scale``) β means the same for every Φ.

Cost: K answers of the reference to each prompt, once; then for each step ``num_generations`` answers to each
prompt, their scores, and one update. The engine holds a second copy of the weights. With ``held_out``,
``evaluation_samples`` answers of policy and reference to each held-out prompt give win rates with intervals;
those by ``judge`` itself only say how well it was optimised, ``evaluation_judge`` is independent.

::

    model: smollm2-135m-instruct
    data: hh_single_turn/train:data/hh-single-turn
    held_out: 50
    judge: harmlessness_head
    procedure: worst_of_n
    n: 4
    adapter: {r: 8, lora_alpha: 16}
    trainer: {beta: 0.1, num_generations: 4, per_device_train_batch_size: 16, max_completion_length: 64,
              learning_rate: 1.0e-4, max_steps: 100}
"""

import math
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import Field

from trivet.catalogue import method
from trivet.errors import ConfigError, DataError
from trivet.judges import Judge, resolve
from trivet.statistics.win_rates import Procedure
from trivet.train.calibrated_reward import (
    CalibratedReward,
    calibration_notes,
    reward_table,
    scored_answers,
)
from trivet.train.inference_evaluation import figures, win_rates
from trivet.train.inference_transforms import Transform, make_transform
from trivet.train.prompts import read_prompts
from trivet.train.rloo_method import Prepared, held_out_answers, prepared, rloo_arguments, rloo_trainer
from trivet.train.rloo_trainer import RlooTrainer
from trivet.train.rollouts import Rollout
from trivet.train.running import TrainingContext
from trivet.train.settings import TrainConfig

JudgeSpec = str | dict[str, Any]


class Config(TrainConfig):
    """Settings. ``trainer`` holds the fields of ``trl.RLOOConfig``; its defaults hold too: ``beta`` 0.05,
    ``num_generations`` 2, ``max_completion_length`` 512, ``learning_rate`` 1e-6."""

    judge: JudgeSpec = Field(description="scores the answers, as in `trivet judges`; larger is better")
    evaluation_judge: JudgeSpec | None = Field(
        None, description="another judge for the held-out prompts, which took no part in training"
    )
    procedure: Procedure = Field("best_of_n", description="what is done with answers at inference")
    n: int = Field(4, ge=1, le=256, description="answers that the procedure sees")
    transform: Transform = Field("exponential", description="of the calibrated reward")
    t: float | None = Field(
        None,
        ge=-50,
        le=50,
        description="exponent of the exponential transform: 10, or -10 for worst_of_n, by default",
    )
    rescale: bool = Field(
        True, description="multiply the transform so that beta is the price of a nat in win rate"
    )
    samples: int = Field(100, ge=2, le=10_000, description="answers of the reference to each prompt (K)")
    evaluation_samples: int = Field(
        16, ge=1, le=10_000, description="answers to each held-out prompt, at least n"
    )

    def inputs(self, base: Path) -> dict[str, str]:
        """See ``TrainConfig.inputs``."""
        found = super().inputs(base) | {"judge": resolve(self.judge, base=base).identity}
        if self.evaluation_judge is not None:
            found["evaluation_judge"] = resolve(self.evaluation_judge, base=base).identity
        return found

    def prompts(self, base: Path) -> frozenset[str]:
        """See ``TrainConfig.prompts``."""
        return frozenset(one.digest for one in read_prompts(self.data, base=base).prompts)

    def judges(self, base: Path) -> tuple[Judge, ...]:
        """See ``TrainConfig.judges``."""
        return (resolve(self.judge, base=base),)

    @property
    def exponent(self) -> float:
        """Of the exponential transform."""
        if self.t is not None:
            return self.t
        return -10.0 if self.procedure == "worst_of_n" else 10.0


@method(paper="2412.19792", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Calibrate, train and measure; the checkpoint or adapter is in ``context.output``.

    Raises:
        ConfigError, DataError, ModelError, JudgeError: what the settings name is wrong.
        TrainingError: a loss or a gradient is not finite.
    """
    _check(config, context)
    arguments = rloo_arguments(config, context)
    if arguments.beta <= 0:
        raise ConfigError("beta: must be positive", where=f"{context.where}: trainer")
    judge = resolve(config.judge, base=context.base)
    transform = make_transform(
        config.transform,
        beta=arguments.beta,
        procedure=config.procedure,
        n=config.n,
        t=config.exponent,
        rescale=config.rescale,
    )
    with prepared(config, context, arguments) as made:
        with PartialState().main_process_first():  # the others find it on the disk
            table = reward_table(
                scored_answers(
                    made.rollouts.engine,
                    judge,
                    made.prompts,
                    count=config.samples,
                    max_tokens=made.rollouts.max_tokens,
                    seed=config.seed,
                    folder=context.work / "calibration",
                    say=context.say,
                )
            )
            reference = held_out_answers(config, context, made, "reference") if made.held_out else []
        if not table:
            raise DataError("no answer of the reference could be scored", where=f"judge {judge.name}")
        coarse = config.transform == "exponential" and config.samples < 2 * abs(config.exponent)
        notes = calibration_notes(table, len(made.prompts))
        if coarse:
            notes.append(
                f"{config.samples} samples are few for the exponent {config.exponent:g}: calibrated rewards "
                "come in steps of 1 / samples, between which the transform changes by a factor"
            )
        context.tell(notes)
        prompts = [one for one in made.prompts if one.row in table]
        trainer = rloo_trainer(made, CalibratedReward(judge, table, transform), prompts)
        context.fit(trainer)
        if made.held_out:
            context.facts["metrics"] = _measure(config, context, made, trainer, judge, reference)
        trainer.save_model(str(context.output))
        context.facts["steps"] = trainer.state.global_step


def _check(config: Config, context: TrainingContext) -> None:
    if config.procedure != "none" and config.held_out and config.evaluation_samples < config.n:
        raise ConfigError(
            f"evaluation_samples: {config.evaluation_samples} answers are fewer than the n = {config.n} of "
            "the procedure",
            where=context.where,
        )
    if config.transform == "exponential" and math.isclose(config.exponent, 0.0):
        raise ConfigError("t: an exponent of 0 makes every answer alike", where=context.where)


def _measure(
    config: Config,
    context: TrainingContext,
    made: Prepared,
    trainer: RlooTrainer,
    judge: Judge,
    reference: list[Rollout],
) -> dict[str, Any]:
    """Figures on the held-out prompts."""
    made.rollouts.load(trainer.accelerator.unwrap_model(trainer.model), "trained")
    with PartialState().main_process_first():
        policy = held_out_answers(config, context, made, "policy")
    found: dict[str, Any] = {"held-out prompts": len(policy)}
    judges = {f"by {judge.name}, which trained it": judge}
    if config.evaluation_judge is not None:
        other = resolve(config.evaluation_judge, base=context.base)
        judges[f"by {other.name}"] = other
    for label, one in judges.items():
        found |= win_rates(policy, reference, one, config.procedure, config.n, label)
    return found | figures("KL, nats an answer", trainer.divergences(policy), None)
