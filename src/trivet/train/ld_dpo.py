"""Direct preference optimisation that is less sensitive to length (LD-DPO).

Liu and others, "Length Desensitization in Direct Preference Optimization" (arXiv 2409.06411). A long answer
has a small probability, and the member of a pair that is longer gets the larger partial derivative, so models
trained on pairs drift to longer answers. Tokens beyond the length l_p of the shorter answer count only by α:

    log π̂(y|x) = Σ_{i ≤ l_p} log p_i + α Σ_{i > l_p} log p_i

in policy and reference, and the loss is that of DPO. α = 1 is DPO, α = 0 leaves the excess out; the authors
find the best α in between, another for each model. It costs what DPO costs.

``reference_treatment: policy_only`` weights the policy's tokens alone, as LLaMA-Factory does and
TRL did before 1.0.
It is another loss: where the policy is the reference it is not ln 2 unless the lengths agree.
"""

from typing import Literal

from pydantic import Field

from trivet.catalogue import method
from trivet.train.preference_method import PreferenceConfig, train_on_pairs
from trivet.train.running import TrainingContext


class Config(PreferenceConfig):
    """Those of every method that learns from pairs, and the weight of the excess."""

    alpha: float = Field(
        0.5, ge=0, le=1, description="weight of the tokens beyond the shorter answer; 1 is plain DPO"
    )
    reference_treatment: Literal["symmetric", "policy_only"] = Field(
        "symmetric", description="whether the reference's tokens are weighted too, as in the paper"
    )


@method(paper="2409.06411", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train on the pairs; the checkpoint or adapter is in ``context.output``."""
    train_on_pairs(
        config, context, alpha=config.alpha, policy_only=config.reference_treatment == "policy_only"
    )
