"""Task arithmetic: add the experts' weighted task vectors to the base.

"Editing Models with Task Arithmetic" (arXiv 2212.04089): a task vector D_t = W_t − W_0 is what fine-tuning
changed, and changes can be added,

    W = W_0 + λ Σ_t w_t D_t        (with ``normalize``: divided by Σ_t w_t).

It settles no conflict between experts: where two pull one weight in opposite directions they cancel. The
paper picks λ on held-out data (0.3 to 0.5 is usual for several experts); λ = 1 is what a recipe of mergekit
means by default. It costs one pass over the weights, and memory for one block of rows.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

import torch

from trivet.catalogue import method
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import TaskVectorConfig, each
from trivet.merge._task_vectors import add_to_base, plain_sum


class Config(TaskVectorConfig):
    """Weights of the task vectors, and their scale."""


@method(paper="2502.06876", version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """W_0 + λ Σ_t w_t D_t for each block.

    Raises:
        MergeError: the recipe has no base.
    """
    tensor.require_base()
    weights = each(config.weight, tensor.count, "weight")

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        return add_to_base(rows.base, plain_sum(rows.deltas, weights, normalize=config.normalize), config)

    return block
