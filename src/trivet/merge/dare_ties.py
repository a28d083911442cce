"""DARE-TIES: drop each task vector at random as DARE does, then elect signs and merge as TIES does.

DARE (arXiv 2311.03099) makes the task vectors sparse, the disjoint merge of TIES (arXiv 2306.01708) keeps at
each weight only the experts whose sign agrees with that of the weighted sum:

    D̃_t = m_t ⊙ D_t / (1 − p);   s = sign(Σ_t w_t D̃_t);   W = W_0 + λ Σ_{t: sign = s} w_t D̃_t.

Defaults are those of mergekit's ``dare_ties``: the sum of what agrees (``normalize: true`` for the mean), and
rescaling to the tensor's sum of magnitudes (``rescale: inverse_keep_prob`` is the paper's). It costs a random
number for each entry, and with ``l1`` a second look at the weights.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

from typing import ClassVar

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.merge._drop import Dropped, RescaleSetting, bernoulli
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import Fraction, TaskVectorConfig, each
from trivet.merge._task_vectors import add_to_base, elected_sum


class Config(TaskVectorConfig):
    """How much is kept, and how the rest is rescaled."""

    passes: ClassVar[int] = 2

    density: Fraction = Field(1.0, description="probability that an entry is kept")
    rescale: RescaleSetting = Field("l1", description="l1, inverse_keep_prob (the paper's) or none")


@method(paper="2502.06876", version=2, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """Drop, rescale, elect, merge for each block.

    Raises:
        MergeError: the recipe has no base.
    """
    tensor.require_base()
    weights = each(config.weight, tensor.count, "weight")
    densities = each(config.density, tensor.count, "density")
    dropped = Dropped(tensor, bernoulli(tensor, densities, config.rescale), config.rescale)
    tensor.notes["density"] = densities

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        left = dropped.deltas(rows)
        return add_to_base(rows.base, elected_sum(left, weights, normalize=config.normalize), config)

    return block
