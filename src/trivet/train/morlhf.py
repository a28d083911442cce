"""Multi-objective reinforcement learning from human feedback (MORLHF): explicit rewards, weighed.

The baseline of "Beyond One-Preference-Fits-All Alignment: Multi-Objective Direct Preference Optimization"
(arXiv 2310.03708, section 2). A reward is learned for each objective, and the policy is trained on their
weighted sum, at a price β for each nat from the reference:

    max_π  E Σ_i w_i r_i(x, y) − β KL(π ‖ π_ref)
    optimum  π_w(y|x) ∝ π_ref(y|x) exp( Σ_i w_i r_i(x, y) / β )

which is where MODPO arrives without reinforcement learning. The paper uses PPO; here it is REINFORCE with a
leave-one-out baseline (``trivet.train.rloo``), which has the same objective and needs no value model. The
rewards are judges, each in its own units, so the weights carry the exchange rate between them. An answer that
a judge with a weight could not score has no reward and takes no part in the update.

Cost: for each weight, at each step ``num_generations`` answers to each prompt, their scores by every judge,
and one update. Prompts, model, engine and the reference's held-out answers are shared by all weights; answers
cannot be, since each policy learns from its own. Judges of weight 0 are asked too, for the log.

::

    model: smollm2-135m-instruct
    data: hh_single_turn/train:data/hh-single-turn
    held_out: 50
    rewards:
      helpful: runs/helpful_reward
      harmless: harmlessness_head
    weights: [[0.8, 0.2], {helpful: 0.2, harmless: 0.8}]
    adapter: {r: 8, lora_alpha: 16}
    trainer: {beta: 0.1, num_generations: 4, per_device_train_batch_size: 16, max_completion_length: 64,
              learning_rate: 1.0e-4, max_steps: 100}
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import Field

from trivet._files import canonical_json, sha256_text
from trivet.catalogue import method
from trivet.errors import ConfigError
from trivet.judges import Judge, resolve
from trivet.train.fronts import fit_point, train_front, with_top_layers
from trivet.train.inference_evaluation import figures, mean_score
from trivet.train.prompts import read_prompts
from trivet.train.rloo_method import Prepared, held_out_answers, prepared, rloo_arguments, rloo_trainer
from trivet.train.rloo_trainer import RlooTrainer
from trivet.train.rollouts import Rollout, judged
from trivet.train.running import TrainingContext
from trivet.train.weight_vectors import VectorsConfig

JudgeSpec = str | dict[str, Any]
Scores = Sequence[Sequence[float | None]]
"""Of each answer of each rollout; ``None`` where a judge could not score it."""

WEIGHTED = "weighted sum"
KL = "KL, nats an answer"


class Config(VectorsConfig):
    """Settings. ``trainer`` holds the fields of ``trl.RLOOConfig``; its defaults hold too: ``beta`` 0.05,
    ``num_generations`` 2, ``max_completion_length`` 512, ``learning_rate`` 1e-6."""

    rewards: dict[str, JudgeSpec] = Field(
        min_length=1, description="by objective, the judge of its reward; larger is better"
    )
    evaluation_samples: int = Field(4, ge=1, le=10_000, description="answers to each held-out prompt")

    @property
    def objectives(self) -> list[str]:
        """Names of the objectives, in order."""
        return list(self.rewards)

    def judges(self, base: Path) -> tuple[Judge, ...]:
        """See ``TrainConfig.judges``: one for each objective, in order."""
        return tuple(resolve(spec, base=base) for spec in self.rewards.values())

    def inputs(self, base: Path) -> dict[str, str]:
        """See ``TrainConfig.inputs``."""
        identities = [
            (name, judge.identity) for name, judge in zip(self.rewards, self.judges(base), strict=True)
        ]
        return {**super().inputs(base), "rewards": sha256_text(canonical_json(identities))}

    def prompts(self, base: Path) -> frozenset[str]:
        """See ``TrainConfig.prompts``."""
        return frozenset(one.digest for one in read_prompts(self.data, base=base).prompts)


def weighted_sum(scores: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Σ_i w_i r_i of an answer, or ``None`` where an objective with a weight has no score."""
    parts = [(weight, scores[name]) for name, weight in weights.items() if weight]
    if any(score is None for _, score in parts):
        return None
    return sum(weight * score for weight, score in parts if score is not None)


def weighted_sums(scores: Mapping[str, Scores], weights: Mapping[str, float]) -> list[list[float | None]]:
    """``weighted_sum`` of each answer of each rollout, from the scores by objective."""
    by_rollout = zip(*scores.values(), strict=True)
    return [
        [weighted_sum(dict(zip(scores, one, strict=True)), weights) for one in zip(*answers, strict=True)]
        for answers in by_rollout
    ]


class WeightedReward:
    """Σ_i w_i r_i of answers. It logs the mean of each objective's score as ``rewards/NAME``.

    Args:
        judges: by objective.
        weights: by objective, w.
    """

    def __init__(self, judges: Mapping[str, Judge], weights: Mapping[str, float]) -> None:
        self.judges, self.weights = judges, weights

    def __call__(
        self, rollouts: Sequence[Rollout], note: Callable[[str, Sequence[float]], None]
    ) -> list[list[float | None]]:
        """See ``trivet.train.rollouts.Reward``."""
        scores = {name: judged(judge, rollouts) for name, judge in self.judges.items()}
        for name, found in scores.items():
            note(f"rewards/{name}", [value for some in found for value in some if value is not None])
        return weighted_sums(scores, self.weights)


@method(paper="2310.03708", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train a policy for each vector of weights; ``context.output`` is the adapter, or the front of them.

    Raises:
        ConfigError, DataError, ModelError, JudgeError: what the settings name is wrong.
        TrainingError: a loss or a gradient is not finite.
    """
    started = time.perf_counter()
    arguments = rloo_arguments(config, context)
    if arguments.beta <= 0:
        raise ConfigError("beta: must be positive", where=f"{context.where}: trainer")
    judges = dict(zip(config.rewards, config.judges(context.base), strict=True))
    with prepared(with_top_layers(config, context), context, arguments) as made:
        with PartialState().main_process_first():  # the others find it on the disk
            reference = held_out_answers(config, context, made, "reference")

        def train_point(vector: tuple[float, ...], checkpoints: str, folder: Path) -> dict[str, Any]:
            begun = time.perf_counter()
            weights = dict(zip(config.objectives, vector, strict=True))
            own = replace(made, arguments=rloo_arguments(config, context, checkpoints))
            trainer = rloo_trainer(own, WeightedReward(judges, weights), made.prompts)

            def measure() -> dict[str, Any]:
                return _measure(config, context, own, trainer, judges, weights, reference, checkpoints)

            return fit_point(context, trainer, checkpoints, folder, measure, begun=begun)

        shown = (*(_label(name, judge) for name, judge in judges.items()), WEIGHTED, KL)
        model = made.trainee.model
        train_front("morlhf", config, context, model, train_point, started=started, figures=shown)


def _measure(
    config: Config,
    context: TrainingContext,
    made: Prepared,
    trainer: RlooTrainer,
    judges: Mapping[str, Judge],
    weights: Mapping[str, float],
    reference: list[Rollout],
    checkpoints: str,
) -> dict[str, Any]:
    """Figures on the held-out prompts: each reward and the weighted sum, what was gained over the reference
    in each, and the KL that it took."""
    if not made.held_out:
        return {}
    made.rollouts.load(trainer.accelerator.unwrap_model(trainer.model), "trained")
    with PartialState().main_process_first():
        policy = held_out_answers(config, context, made, checkpoints.replace("checkpoints", "policy"))
    own = {name: judged(judge, policy) for name, judge in judges.items()}
    before = {name: judged(judge, reference) for name, judge in judges.items()}
    labels = {_label(name, judge): (own[name], before[name]) for name, judge in judges.items()}
    labels[WEIGHTED] = (weighted_sums(own, weights), weighted_sums(before, weights))
    found: dict[str, Any] = {"held-out prompts": len(policy)}
    for label, (after, earlier) in labels.items():
        found |= _means(label, after, earlier)
    return found | figures(KL, trainer.divergences(policy), None)


def _label(name: str, judge: Judge) -> str:
    return f"{name}, by {judge.name}, which trained it"


def _means(label: str, policy: Scores, reference: Scores) -> dict[str, Any]:
    """The mean over prompts of the policy's scores and of their difference to the reference's."""
    pairs = [(mean_score(own), mean_score(other)) for own, other in zip(policy, reference, strict=True)]
    known = [(own, other) for own, other in pairs if own is not None and other is not None]
    found = figures(label, [own for own, _ in known], None)
    found |= figures(f"{label}: gain over the reference", [own - other for own, other in known], None)
    if len(known) < len(pairs):
        found[f"{label}: prompts left out"] = len(pairs) - len(known)
    return found
