"""TIES: trim each task vector, elect a sign for each weight, and average only what agrees with it.

"TIES-Merging: Resolving Interference When Merging Models" (arXiv 2306.01708). Most entries of a task vector
hardly matter, and experts cancel where they pull in opposite directions. Therefore

    trim     keep the ``density`` share of each D_t that is largest in magnitude, the rest is 0;
    elect    s = sign(Σ_t w_t D_t);
    merge    W = W_0 + λ Σ_{t agrees} w_t D_t / Σ_{t agrees} w_t      (``normalize: false``: the sum).

The paper keeps 20 % (``density: 0.2``) and takes the mean; recipes of mergekit keep all by default. The
paper's code trims over all weights of the model at once (``trim_scope: model``), mergekit over each tensor.
Exactly max(1, ⌊density · n⌋) entries stay; among equal magnitudes at the threshold the first by index. It
costs three looks at the weights: two count magnitudes, so nothing is sorted. ``trim_scope: model`` adds two
looks at the whole model before.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.merge._drop import TrimRescaleSetting
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import Fraction, TaskVectorConfig, each
from trivet.merge._task_vectors import add_to_base, elected_sum
from trivet.merge._trim import Kept, Trimmer, model_trimmers, tensor_trimmers


class Config(TaskVectorConfig):
    """How much is kept, and how what agrees is combined."""

    passes: ClassVar[int] = 3

    normalize: bool = Field(True, description="the mean of what agrees, not its sum")
    density: Fraction = Field(1.0, description="share of each task vector that is kept (paper: 0.2)")
    rescale: TrimRescaleSetting = Field(
        "none", description="l1 restores the sum of magnitudes after trimming (mergekit's rescale: true)"
    )
    trim_scope: Literal["tensor", "model"] = Field(
        "tensor", description="whether the share is of each tensor or of the whole model"
    )


@method(paper="2502.06876", version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """Trim, elect, merge for each block.

    Raises:
        MergeError: the recipe has no base.
    """
    tensor.require_base()
    weights = each(config.weight, tensor.count, "weight")
    densities = each(config.density, tensor.count, "density")
    trimmers: Sequence[Trimmer]
    if config.trim_scope == "model":
        trimmers = model_trimmers(tensor, densities)
    else:
        bands = tensor_trimmers(tensor, densities)
        tensor.notes["density"] = [band.density for band in bands]
        trimmers = bands

    kept = Kept(tensor, trimmers, config.rescale)

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        return add_to_base(
            rows.base, elected_sum(kept.deltas(rows), weights, normalize=config.normalize), config
        )

    return block
