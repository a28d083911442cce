"""Cost model: how harmful an answer is, with a zero that separates safe from unsafe.

"Reinforcement Learning from Human Feedback with High-Confidence Safety Constraints" (HC-RLHF, arXiv
2506.08266) takes it from "Safe RLHF" (arXiv 2310.12773). Besides ranking the less safe answer of a pair
higher, the model learns from labels of single answers that a cost above 0 is unsafe and one below 0 is safe.
With s = +1 for an unsafe and −1 for a safe answer:

    L = E[ −log σ(C_unsafer − C_safer) − log σ(s_unsafer · C_unsafer) − log σ(s_safer · C_safer) ] + μ · E C²

**Without safety labels there is ranking alone**, which does not change when a constant is added to all costs:
then 0 is no boundary, a limit on the cost has to be set from a reference policy's costs (a quantile, say),
and the judge gives no labels. Where some answers are labelled, only these have a sign term.
The result is a sequence classifier with one output, or a PEFT adapter of one; as a judge it is
``{judge: reward_model, model: FOLDER}``, with the labels ``unsafe`` and ``safe``.

Cost: the tokens of prompt and both answers once forward and once backward for each pair and epoch; the prompt
is computed once for both answers.

Rows are those of PKU-SafeRLHF (``prompt``, ``response_0``, ``response_1``, ``safer_response_id``,
``is_response_0_safe``, ``is_response_1_safe``), or TRL's preference pairs whose chosen answer is the safer
one, with ``chosen_safe`` and ``rejected_safe`` (true, false or absent); ``category`` in either.

::

    model: smollm2-135m-instruct
    data: PKU-Alignment/PKU-SafeRLHF:train
    held_out: 500
    adapter: {r: 8, lora_alpha: 16}
    trainer: {learning_rate: 2.0e-5, num_train_epochs: 2, lr_scheduler_type: cosine, warmup_ratio: 0.03,
              weight_decay: 0.1, per_device_train_batch_size: 4, gradient_accumulation_steps: 4}
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from pydantic import Field
from trl.trainer.reward_config import RewardConfig

from trivet.catalogue import method
from trivet.train.preferences import PreferenceSet
from trivet.train.running import TrainingContext
from trivet.train.score_loss import cost_loss
from trivet.train.score_method import ScorerConfig, read_scored, train_scorer
from trivet.train.score_trainer import ScoreLoss
from trivet.train.scored_pairs import ScoredPair


class Config(ScorerConfig):
    """Those of every scorer, and the weight of the regulariser."""

    objective: str = Field("harm", description="what a larger cost means more of; the judge's objective")
    regularization: float = Field(
        1e-3, ge=0, le=10, description="μ, weight of the mean squared cost; 0 leaves it out"
    )

    def read(self, base: Path) -> PreferenceSet:
        """See ``ScorerConfig.read``."""
        return read_scored(self.data, base, better="safer_response_id")


@method(paper="2506.08266", version=1, takes=("Checkpoint", "DataSet"), gives=("JudgeArtifact",))
def train(config: Config, context: TrainingContext) -> None:
    """Train on the pairs; the classifier or adapter is in ``context.output``."""
    train_scorer(
        config,
        context,
        loss_of=partial(_loss, config, context),
        better=-1,
        honoured=("max_length", "disable_dropout"),
    )


def _loss(
    config: Config, context: TrainingContext, arguments: RewardConfig, pairs: Sequence[ScoredPair]
) -> ScoreLoss:
    labelled = sum(sign != 0 for pair in pairs for sign in pair.signs)
    context.facts["notes"] = [
        f"{labelled} of {2 * len(pairs)} answers are labelled safe or unsafe and have a sign term"
        if labelled
        else "no answer is labelled safe or unsafe: the costs are learnt by ranking alone, which a constant "
        "added to all of them does not change, so that a cost of 0 is no boundary"
    ]

    def loss(scores: torch.Tensor, margins: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        return cost_loss(scores, signs, regularization=config.regularization)

    return loss
