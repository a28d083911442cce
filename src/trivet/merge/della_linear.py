"""DELLA without sign election: drop small entries more often than large ones, rescale, and add.

"DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling" (arXiv 2406.11617).
MagPrune ranks the magnitudes within each row; the keep probability rises linearly with the rank r = 0 … n−1,

    p_r = density − ε + 2 ε r / (n − 1),   D̃_i = m_i D_i / p_i,  m_i ~ Bernoulli(p_i);   W = W_0 + λ Σ_t
    w_t D̃_t.

``epsilon`` is the half-width, as in mergekit; the paper's ε is the full window, so halve it. The paper
divides each entry by its own keep probability (``rescale: inverse_keep_prob``); the default ``l1`` restores
the tensor's sum of magnitudes, as mergekit does. It costs a sort within each row, and with ``l1`` a second
look.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

import torch

from trivet.catalogue import method
from trivet.merge._drop import Dropped, magnitude_pruned
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._magnitude import MagnitudeConfig, checked
from trivet.merge._settings import each
from trivet.merge._task_vectors import add_to_base, plain_sum


class Config(MagnitudeConfig):
    """How much is kept, how strongly by magnitude, and how the rest is rescaled."""


@method(paper="2502.06876", version=2, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """Drop, rescale, add for each block.

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
        return add_to_base(rows.base, plain_sum(left, weights, normalize=config.normalize), config)

    return block
