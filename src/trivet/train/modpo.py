"""Multi-objective direct preference optimisation (MODPO): a family of models, one for each trade-off.

Zhou and others, "Beyond One-Preference-Fits-All Alignment: Multi-Objective Direct Preference Optimization"
(arXiv 2310.03708). The policy that is optimal for a weighted sum of rewards, under a penalty for its
divergence from a reference, says the reward of one objective once those of the others are known:

    r̂_k(x, y) = ( β log π_θ(y|x)/π_ref(y|x) − Σ_{j≠k} w_j r_j(x, y) ) / w_k
    L = −E_{D_k} log σ( r̂_k(x, y_w) − r̂_k(x, y_l) )

so one run of DPO on the pairs of objective k, with the margins of the other rewards in its loss, reaches the
optimum π_ref exp(Σ_i w_i r_i / β) without reinforcement learning. It is DPO with β / w_k and the margins
Σ w_j r_j / w_k. The other rewards are implicit in models that DPO made, or explicit (length, a judge, a
function). w_k = 1 with the others 0 is DPO; w_k = 0 is not defined.

Cost: for each weight what DPO costs; once for all weights one pass forward for the reference and for each
model among the margins, or the judge's calls. Two options trade fidelity for time: ``warm_start``, where a
weight starts from the adapter of the one before it, and ``top_layers``, where only layers at the top learn.

::

    model: smollm2-135m-instruct
    data: hh_single_turn/train:data/hh-single-turn
    objective: harmless
    margins:
      helpful: {model: helpful_dpo, beta: 0.1}
      short: {length: tokens, scale: 0.01}
    weights: [[0.8, 0.2, 0], [0.4, 0.4, 0.2], {harmless: 0.2, helpful: 0.8, short: 0}]
    adapter: {r: 8, lora_alpha: 16}
    trainer: {learning_rate: 1.0e-4, max_steps: 100, per_device_train_batch_size: 4}
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field

from trivet._files import canonical_json, sha256_text
from trivet.catalogue import method
from trivet.errors import DataError
from trivet.judges.base import Judge
from trivet.train.fronts import Point, train_points, with_top_layers
from trivet.train.held_out import held_out_metrics
from trivet.train.margin_settings import Margin
from trivet.train.margins import Rewards, margin_rewards
from trivet.train.preference_method import loss_type, preference_arguments, prepare, read_pairs
from trivet.train.preference_trainer import Objective, PreferenceExample
from trivet.train.running import TrainingContext
from trivet.train.weight_vectors import WeightsConfig


class Config(WeightsConfig):
    """Those of every method that weighs objectives, and the rewards of those that are not trained now."""

    margins: dict[str, Margin] = Field(
        min_length=1, description="by objective, where its reward comes from; see the keys of a margin"
    )

    def others(self) -> Sequence[str]:
        """Names of the objectives that are not trained now."""
        return list(self.margins)

    def check_vector(self, vector: tuple[float, ...]) -> None:
        """See ``WeightsConfig.check_vector``; also w_k = 0 is refused."""
        super().check_vector(vector)
        if vector[0] == 0:
            raise ValueError(
                f"weights: that of {self.objective!r}, which is trained now, must be above 0; "
                "for weight 0 use the model that DPO makes of the other objective's pairs"
            )

    def models(self) -> list[str]:
        """See ``TrainConfig.models``."""
        return [*super().models(), *(margin.model for margin in self.margins.values() if margin.model)]

    def judges(self, base: Path) -> tuple[Judge, ...]:
        """See ``TrainConfig.judges``."""
        margins = self.margins.values()
        return tuple(margin.opened_judge(base) for margin in margins if margin.judge is not None)

    def inputs(self, base: Path) -> dict[str, str]:
        """See ``TrainConfig.inputs``."""
        margins = {name: margin.identity(base) for name, margin in self.margins.items()}
        return {**super().inputs(base), "margins": sha256_text(canonical_json(list(margins.items())))}


def modpo_terms(rewards: torch.Tensor, weights: Sequence[float], beta: float) -> tuple[float, torch.Tensor]:
    """β / w_k, and the margin Σ_{j≠k} w_j r_j / w_k of each answer [answers].

    Args:
        rewards: of the objectives that are not trained now [answers, objectives − 1].
        weights: w_k first, then those of the columns of ``rewards``; w_k > 0.
        beta: weight of the log-ratios, β.
    """
    first, *others = weights
    return beta / first, rewards @ torch.tensor(others, dtype=rewards.dtype) / first


@method(paper="2310.03708", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train a policy for each vector of weights; ``context.output`` is the adapter, or the front of them.

    Raises:
        ConfigError, DataError, ModelError, JudgeError: what the settings name is wrong.
        TrainingError: a loss or a gradient is not finite.
    """
    started = time.perf_counter()
    arguments = preference_arguments(config, context)
    kind = loss_type(arguments.loss_type, context.where)
    prepared = prepare(with_top_layers(config, context), context, arguments, *read_pairs(config, context))
    # An objective that never has a weight needs no reward.
    used = {
        name: margin
        for place, (name, margin) in enumerate(config.margins.items(), 1)
        if any(vector[place] for vector in config.vectors())
    }
    found = {
        name: margin_rewards(
            name, margin, context, prepared, seed=config.seed, max_length=arguments.max_length
        )
        for name, margin in used.items()
    }
    trained, rewards = _scored(prepared.trained, {name: both[0] for name, both in found.items()})
    held_out, judged = _scored(prepared.held_out, {name: both[1] for name, both in found.items()})
    if not trained:
        raise DataError("no pair has both its answers scored by every margin", where=context.where)

    def point(vector: tuple[float, ...]) -> Point:
        weights = [
            vector[0],
            *(weight for name, weight in zip(config.margins, vector[1:], strict=True) if name in used),
        ]
        beta, margins = modpo_terms(rewards, weights, arguments.beta)
        measured = _with_margins(held_out, modpo_terms(judged, weights, arguments.beta)[1])
        return Point(
            Objective(beta, kind),
            _with_margins(trained, margins),
            measured,
            lambda trainer: held_out_metrics(trainer, measured) if measured else {},
        )

    train_points("modpo", config, context, prepared, point, started=started)


def _scored(
    examples: Sequence[PreferenceExample], rewards: Mapping[str, Rewards]
) -> tuple[list[PreferenceExample], torch.Tensor]:
    """The pairs that every margin could score, and their rewards, float64 [2 · pairs, margins]."""
    kept = [place for place in range(len(examples)) if all(found[place] for found in rewards.values())]
    columns = [[value for place in kept for value in found[place] or ()] for found in rewards.values()]
    table = torch.tensor(columns, dtype=torch.float64).view(len(columns), 2 * len(kept))
    return [examples[place] for place in kept], table.T


def _with_margins(examples: Sequence[PreferenceExample], margins: torch.Tensor) -> list[PreferenceExample]:
    return [
        replace(example, margins=(chosen, rejected))
        for example, (chosen, rejected) in zip(examples, margins.view(-1, 2).tolist(), strict=True)
    ]
