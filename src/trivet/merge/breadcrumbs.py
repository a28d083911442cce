"""Model Breadcrumbs: leave out the smallest and the very largest entries of each task vector, and add.

"Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks" (arXiv 2312.06795): within each
tensor, small entries are noise and the few largest are outliers that shift the whole layer, so a mask m_t
leaves both out:

    W = W_0 + λ Σ_t w_t (m_t ⊙ D_t).

Of n entries the ⌊gamma · n⌋ largest go, then as many of the smallest as leave exactly ⌊density · n⌋ (where
both do not fit, fewer of the largest go). Ties by index. It costs three looks at the weights; nothing is
sorted.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

import torch

from trivet.catalogue import method
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._outliers import OutlierConfig, kept_of
from trivet.merge._settings import each
from trivet.merge._task_vectors import add_to_base, plain_sum


class Config(OutlierConfig):
    """How much is kept, and how much of the top is left out."""


@method(paper="2502.06876", version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """Mask and add for each block.

    Raises:
        MergeError: the recipe has no base.
    """
    tensor.require_base()
    weights = each(config.weight, tensor.count, "weight")
    kept = kept_of(config, tensor)

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        return add_to_base(
            rows.base, plain_sum(kept.deltas(rows), weights, normalize=config.normalize), config
        )

    return block
