"""Linear: the weighted average of the models' weights.

"Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference
time" (arXiv 2203.05482):

    W = Σ_t w_t W_t / Σ_t w_t        (without ``normalize``: not divided).

Equal weights are the plain weight average (``weight_average``). It works because models fine-tuned from one
base usually lie in one basin of the loss; nothing settles conflicts. A base takes part only where it is
listed among the models, or has a weight. It costs one pass over the weights, and memory for one block of
rows.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

from typing import ClassVar

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.errors import MergeError
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import MergeConfig, Weight, each
from trivet.merge._task_vectors import weighted_sum


class Config(MergeConfig):
    """Weights of the models."""

    base_is_input: ClassVar[bool] = True
    base_joins: ClassVar[bool] = True

    weight: Weight = Field(1.0, description="weight of each model")
    normalize: bool = Field(True, description="divide by the sum of the weights")

    def check(self, count: int, where: str) -> None:
        if self.normalize and sum(each(self.weight, count, "weight")) == 0:
            raise MergeError("the weights sum to 0, and normalize divides by it", where=where)


@method(paper="2502.06876", version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """The weighted average of each block.

    Raises:
        MergeError: the weights sum to 0 and are to be divided by their sum.
    """
    config.check(tensor.count, tensor.name)
    weights = each(config.weight, tensor.count, "weight")
    total = sum(weights)

    def block(rows: Block) -> torch.Tensor:
        summed = weighted_sum(rows.experts, weights)
        return summed.div_(total) if config.normalize and total != 1 else summed

    return block
