"""Restoring the sum of magnitudes of a task vector of which only a part was kept."""

from collections.abc import Callable

import torch

from trivet.merge._group import Block, TensorGroup

_NOTHING = 1e-7


def l1_factors(group: TensorGroup, kept: Callable[[int, Block], torch.Tensor]) -> list[float]:
    """Σ |D_t| / Σ |kept_t| for each expert, 1 where nothing was there or is left. One look at the tensor.

    Args:
        kept: (expert, block) → what is kept of the expert's task vector, or its magnitudes, [rows, columns].
    """
    before, after = [0.0] * group.count, [0.0] * group.count
    for block in group.blocks():
        for expert, delta in enumerate(block.deltas):
            # In double precision the sums do not depend on how the tensor is cut into blocks.
            before[expert] += float(delta.abs().sum(dtype=torch.float64))
            after[expert] += float(kept(expert, block).abs().sum(dtype=torch.float64))
    return [
        1.0 if whole < _NOTHING or left < _NOTHING else whole / left
        for whole, left in zip(before, after, strict=True)
    ]
