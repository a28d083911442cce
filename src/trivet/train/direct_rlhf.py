"""Direct RLHF: reinforcement learning from human feedback that starts at the base model.

"Balancing Enhancement, Harmlessness, and General Capabilities: Enhancing Conversational LLMs with Direct
RLHF" (arXiv 2403.02513). Fine-tuning on narrow dialogues makes a model forget general skills and copy what is
toxic in them. Leaving it out, policy and reference are the same base model, and a reward r from preferences
shapes it:

    max_π  E r(x, y) − β KL(π ‖ π_ref),   whose optimum is   π*(y|x) ∝ π_ref(y|x) exp(r(x, y) / β)

A base model neither stops nor takes turns. Where it has no chat template it is shown transcripts
("\\n\\nHuman: … \\n\\nAssistant:"); an answer ends at an end-of-sequence token or at the first ``stop``
string, before which it is cut for the reward, and learning ends with the token that completed it.

``algorithm: rloo`` is REINFORCE with a leave-one-out baseline (``trivet.train.rloo``), one update a step;
``ppo`` is the faithful one (``trivet.train.ppo``): values, generalised advantages, clipped ratios, several
updates a step by ``num_iterations`` and ``minibatches``. Both have the same optimum. The paper does not tell
its hyperparameters; the defaults are TRL's and common practice.

Cost of a step: answers to its prompts, their scores, one pass of the reference, and an update, with PPO one
pass more and an update for each part of each pass. The engine holds a second copy of the weights, and the
reference is a third where no adapter is trained.

The comparison base / fine-tuned / direct is a study of three systems: ``examples/direct_rlhf.yaml``. With
``held_out``, reward, KL and length are measured before and after, also by ``evaluation_judge``, which took no
part; ``probe`` adds the probability of listed words at the first token of an answer.

::

    model: HuggingFaceTB/SmolLM2-135M
    data: hh_single_turn/train:hh-single-turn
    held_out: 50
    judge: runs/reward
    algorithm: ppo
    ppo: {minibatches: 4}
    trainer: {beta: 0.05, num_generations: 2, num_iterations: 2, per_device_train_batch_size: 32,
              max_completion_length: 128, learning_rate: 1.0e-6, max_steps: 200}
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from accelerate import PartialState
from pydantic import Field
from trl.trainer.rloo_config import RLOOConfig

from trivet import _validation
from trivet.catalogue import method
from trivet.errors import ConfigError
from trivet.judges import Judge, resolve
from trivet.models.names import resolve_model
from trivet.train.direct_evaluation import Before, before_training, measured
from trivet.train.direct_reward import DirectReward
from trivet.train.launching import refuse_deepspeed
from trivet.train.loading import Trainee
from trivet.train.ppo_trainer import PpoSettings, PpoTrainer
from trivet.train.prompts import read_prompts
from trivet.train.rloo_method import Prepared, prepared, rloo_trainer, trainer_options
from trivet.train.rloo_trainer import HONOURED, RlooSettings, RlooTrainer, count_prompts
from trivet.train.running import TrainingContext
from trivet.train.settings import TrainConfig, anchored
from trivet.train.transcripts import STOP, starting_point, write_transcripts

JudgeSpec = str | dict[str, Any]


class PpoConfig(_validation.Config):
    """Of ``algorithm: ppo``. Passes over the answers of a step and the bound of ratios are ``num_iterations``
    and ``epsilon`` in ``trainer``, as TRL calls them."""

    minibatches: int = Field(1, ge=1, le=1024, description="parts of a step's prompts; an update each")
    value_clip: float = Field(0.2, gt=0, description="largest change of a value that counts, in reward")
    value_weight: float = Field(0.1, ge=0, le=10, description="of the value's loss in the whole loss")
    value_learning_rate: float = Field(1e-4, gt=0, le=1, description="of the value head, which starts at 0")
    gamma: float = Field(1.0, gt=0, le=1, description="discount a token")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation")


class Config(TrainConfig):
    """Settings. ``trainer`` holds the fields of ``trl.RLOOConfig``; its defaults hold too: ``beta`` 0.05,
    ``num_generations`` 2, ``max_completion_length`` 512, ``learning_rate`` 1e-6, and for PPO
    ``num_iterations`` 1, ``epsilon`` 0.2."""

    judge: JudgeSpec = Field(description="gives the reward, as in `trivet judges`; larger is better")
    evaluation_judge: JudgeSpec | None = Field(
        None, description="another judge for the held-out prompts, which took no part in training"
    )
    algorithm: Literal["rloo", "ppo"] = Field("rloo", description="how the policy is updated")
    ppo: PpoConfig | None = Field(None, description="settings of `algorithm: ppo`")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=lambda: [STOP], max_length=16, description="strings that end an answer"
    )
    no_stop_penalty: float = Field(
        0.0, ge=0, le=1000, description="taken from the reward of an answer that did not stop"
    )
    whiten: bool = Field(
        False, description="scores less their mean over a step, over their standard deviation"
    )
    whiten_clip: float = Field(5.0, gt=0, description="largest whitened score, in standard deviations")
    base_model: bool | None = Field(
        None, description="whether the model is a base model, where name and chat template tell otherwise"
    )
    evaluation_samples: int = Field(4, ge=1, le=1000, description="answers to each held-out prompt")
    probe: list[str] = Field(
        default_factory=list,
        max_length=10_000,
        description="words whose probability on held-out prompts is measured before and after",
    )

    def inputs(self, base: Path) -> dict[str, str]:
        """See ``TrainConfig.inputs``."""
        found = super().inputs(base) | {"judge": resolve(self.judge, base=base).identity}
        if self.evaluation_judge is not None:
            found["evaluation_judge"] = resolve(self.evaluation_judge, base=base).identity
        return found

    def judges(self, base: Path) -> tuple[Judge, ...]:
        """See ``TrainConfig.judges``."""
        return (resolve(self.judge, base=base),)

    def prompts(self, base: Path) -> frozenset[str]:
        """See ``TrainConfig.prompts``."""
        return frozenset(one.digest for one in read_prompts(self.data, base=base).prompts)


@method(paper="2403.02513", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train on rewards of the model's own answers; the checkpoint or adapter is in ``context.output``.

    Raises:
        ConfigError, DataError, ModelError, JudgeError: what the settings name is wrong.
        TrainingError: a loss or a gradient is not finite.
    """
    arguments = _arguments(config, context)
    judge = resolve(config.judge, base=context.base)
    reward = DirectReward(judge, config.no_stop_penalty, config.whiten_clip if config.whiten else None)

    def ready(trainee: Trainee) -> list[str]:
        return _starting_point(config, context, trainee)

    with prepared(config, context, arguments, stop=tuple(config.stop), ready=ready) as made:
        trainer = _trainer(config, made, reward)
        before: Before | None = None
        if made.held_out:
            with PartialState().main_process_first():  # the others find the answers on the disk
                before = before_training(config, context, made)
        context.fit(trainer)
        if before is not None:
            context.facts["metrics"] = measured(config, context, made, trainer, before)
        trainer.save_model(str(context.output))
        context.facts["steps"] = trainer.state.global_step


def _arguments(config: Config, context: TrainingContext) -> RLOOConfig:
    """The trainer's arguments, with batch sizes in prompts; see ``count_prompts``."""
    where = f"{context.where}: trainer"
    honoured = HONOURED if config.algorithm == "rloo" else (*HONOURED, "num_iterations", "epsilon")
    if config.algorithm == "ppo":
        refuse_deepspeed(config.trainer, "the several updates of a step of PPO", where)
    arguments = count_prompts(context.arguments(RLOOConfig, config, honoured), where)
    if config.algorithm == "rloo":
        if config.ppo is not None:
            raise ConfigError(
                "ppo: these settings belong to `algorithm: ppo`", where=context.where, hint="leave them out"
            )
        return arguments
    if arguments.gradient_accumulation_steps != 1:
        raise ConfigError(
            "gradient_accumulation_steps: a step of PPO is one batch, updated in parts",
            where=where,
            hint="raise per_device_train_batch_size, and ppo: {minibatches: …} to save memory",
        )
    minibatches = _ppo(config).minibatches
    if minibatches > arguments.per_device_train_batch_size:
        raise ConfigError(
            f"ppo: minibatches: {minibatches} parts of {arguments.per_device_train_batch_size} prompts",
            where=context.where,
            hint="a part holds whole prompts; per_device_train_batch_size counts answers",
        )
    arguments.disable_dropout = True  # a ratio would measure it
    return arguments


def _ppo(config: Config) -> PpoConfig:
    return config.ppo or PpoConfig.model_validate({})


def _starting_point(config: Config, context: TrainingContext, trainee: Trainee) -> list[str]:
    """Let a base model be asked in transcripts, and say what the run starts from."""
    transcripts = write_transcripts(trainee.tokenizer)
    folder = resolve_model(anchored(config.model, context.base)).path
    said = starting_point(config.model, folder, transcripts, config.base_model)
    context.facts["starting_point"] = said
    return [said]


def _trainer(config: Config, made: Prepared, reward: DirectReward) -> RlooTrainer:
    if config.algorithm == "rloo":
        return rloo_trainer(made, reward, made.prompts)
    arguments, plain = made.arguments, RlooSettings.of(made.arguments)
    settings = PpoSettings(
        beta=plain.beta,
        clip=plain.clip,
        epochs=arguments.num_iterations,
        epsilon=arguments.epsilon,
        **_ppo(config).model_dump(),
    )
    return PpoTrainer(reward=reward, **{**trainer_options(made, made.prompts), "settings": settings})
