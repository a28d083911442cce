"""Breadcrumbs-TIES: mask each task vector as Breadcrumbs does, then elect signs and merge as TIES does.

The masks of "Model Breadcrumbs" (arXiv 2312.06795; see ``breadcrumbs``) leave out the smallest and the very
largest entries, the disjoint merge of TIES (arXiv 2306.01708) keeps at each weight only what agrees:

    s = sign(Σ_t w_t m_t ⊙ D_t);   W = W_0 + λ Σ_{t: sign = s} w_t (m_t ⊙ D_t).

As in mergekit's ``breadcrumbs_ties`` what agrees is summed; ``normalize: true`` takes the mean. It costs
three looks at the weights; nothing is sorted.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

import torch

from trivet.catalogue import method
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._outliers import OutlierConfig, kept_of
from trivet.merge._settings import each
from trivet.merge._task_vectors import add_to_base, elected_sum


class Config(OutlierConfig):
    """How much is kept, and how much of the top is left out."""


@method(paper="2502.06876", version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """Mask, elect, merge for each block.

    Raises:
        MergeError: the recipe has no base.
    """
    tensor.require_base()
    weights = each(config.weight, tensor.count, "weight")
    kept = kept_of(config, tensor)

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        return add_to_base(
            rows.base, elected_sum(kept.deltas(rows), weights, normalize=config.normalize), config
        )

    return block
