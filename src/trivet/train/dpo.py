"""Direct preference optimisation: learn from pairs of answers without a reward model.

Rafailov, Sharma, Mitchell, Ermon, Manning and Finn, "Direct Preference Optimization: Your Language Model is
Secretly a Reward Model" (arXiv 2305.18290). A policy that is optimal for some reward under a penalty for its
divergence from a reference says that reward: r(x, y) = β log π(y|x) / π_ref(y|x), up to a term of the prompt.
Put into the likelihood of the pairs, the reward model falls away:

    L = −E log σ( β log π(y_w|x)/π_ref(y_w|x) − β log π(y_l|x)/π_ref(y_l|x) )

Cost: the tokens of prompt and both answers once forward and once backward for each pair and epoch, and once
forward for the reference (kept on disk). The prompt is computed once for both answers.

::

    model: smollm2-135m-instruct
    data: hh_single_turn/train:data/hh-single-turn
    held_out: 200
    adapter: {r: 8, lora_alpha: 16}
    trainer: {learning_rate: 1.0e-4, max_steps: 100, per_device_train_batch_size: 4}
"""

from trivet.catalogue import method
from trivet.train.preference_method import PreferenceConfig, train_on_pairs
from trivet.train.running import TrainingContext


class Config(PreferenceConfig):
    """Those of every method that learns from pairs."""


@method(paper=None, version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train on the pairs; the checkpoint or adapter is in ``context.output``."""
    train_on_pairs(config, context)
