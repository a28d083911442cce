"""Reward model: a score for every answer, learnt from which of two answers people preferred.

The model of Bradley and Terry (1952), "Rank Analysis of Incomplete Block Designs", as used for language
models in "Training language models to follow instructions with human feedback" (arXiv 2203.02155). That an
answer is preferred is taken to depend on the difference of two scores alone, which a linear head reads from
the hidden state of each answer's last token. With an optional margin m of a pair (arXiv 2307.09288) and
centring of the scores (arXiv 2312.09244):

    L = −E log σ( r(x, y_w) − r(x, y_l) − m )  +  c · E (r(x, y_w) + r(x, y_l))²

Without centring, a constant added to all scores changes nothing: only differences of scores mean something.
The result is a sequence classifier with one output, which ``AutoModelForSequenceClassification`` loads, or a
PEFT adapter of one; as a judge it is ``{judge: reward_model, model: FOLDER}``.

Cost: the tokens of prompt and both answers once forward and once backward for each pair and epoch; the prompt
is computed once for both answers.

Rows are TRL's preference pairs, with ``margin`` and ``category`` where there are any, or those of
PKU-SafeRLHF (``response_0``, ``response_1``, ``better_response_id``).

::

    model: smollm2-135m-instruct
    data: hh_single_turn/train:data/hh-single-turn
    held_out: 500
    objective: harmlessness
    adapter: {r: 8, lora_alpha: 16}
    trainer: {learning_rate: 1.0e-4, max_steps: 200, per_device_train_batch_size: 8}
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from trl.trainer.reward_config import RewardConfig

from trivet.catalogue import method
from trivet.train.preferences import PreferenceSet
from trivet.train.running import TrainingContext
from trivet.train.score_loss import reward_loss
from trivet.train.score_method import ScorerConfig, read_scored, train_scorer
from trivet.train.score_trainer import ScoreLoss
from trivet.train.scored_pairs import ScoredPair


class Config(ScorerConfig):
    """Those of every scorer. ``center_rewards_coefficient`` in ``trainer`` is c, by default none."""

    def read(self, base: Path) -> PreferenceSet:
        """See ``ScorerConfig.read``."""
        return read_scored(self.data, base, better="better_response_id")


@method(paper=None, version=1, takes=("Checkpoint", "DataSet"), gives=("JudgeArtifact",))
def train(config: Config, context: TrainingContext) -> None:
    """Train on the pairs; the classifier or adapter is in ``context.output``."""
    train_scorer(
        config,
        context,
        loss_of=_loss,
        better=1,
        honoured=("max_length", "disable_dropout", "center_rewards_coefficient"),
    )


def _loss(arguments: RewardConfig, pairs: Sequence[ScoredPair]) -> ScoreLoss:
    center = arguments.center_rewards_coefficient

    def loss(scores: torch.Tensor, margins: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        return reward_loss(scores, margins, center=center)

    return loss
