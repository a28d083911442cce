"""DELLA (with TIES): drop small entries more often than large ones, elect signs, and average what agrees.

"DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling" (arXiv 2406.11617):
drop by magnitude (see ``della_linear``), elect a sign for each weight, fuse what agrees with it:

    p_r = density − ε + 2 ε r / (n − 1);   s = sign(Σ_t w_t D̃_t);
    W = W_0 + λ Σ_{t: sign = s} w_t D̃_t / Σ_{t: sign = s} w_t.

``epsilon`` is the half-width, as in mergekit; the paper's ε is the full window, so halve it. The paper
divides each entry by its own keep probability (``rescale: inverse_keep_prob``); the default ``l1`` restores
the tensor's sum of magnitudes, as mergekit does. Also named ``della_ties``. It costs a sort within each
row, and with ``l1`` a second look at the weights.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.merge._drop import Dropped, magnitude_pruned
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._magnitude import MagnitudeConfig, checked
from trivet.merge._settings import each
from trivet.merge._task_vectors import add_to_base, elected_sum


class Config(MagnitudeConfig):
    """How much is kept, how strongly by magnitude, and how what agrees is combined."""

    normalize: bool = Field(True, description="the mean of what agrees, not its sum")


@method(paper="2502.06876", version=2, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """Drop, rescale, elect, merge for each block.

    Raises:
        MergeError: the recipe has no base, or density ± epsilon leaves (0, 1).
    """
    tensor.require_base()
    weights = each(config.weight, tensor.count, "weight")
    densities, epsilons = checked(config, tensor)
    mask = magnitude_pruned(tensor, densities, epsilons, config.rescale)
    dropped = Dropped(tensor, mask, config.rescale)

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        left = dropped.deltas(rows)
        return add_to_base(rows.base, elected_sum(left, weights, normalize=config.normalize), config)

    return block
