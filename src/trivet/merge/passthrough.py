"""Passthrough: tensors go into the output as they are, for models put together from layers.

With ``slices`` a recipe stacks layers of one or several models ("frankenmerge"; mergekit's ``passthrough``):

    W = s · W_1        (s is 1 unless ``scale`` is given).

Each slice has exactly one source. Nothing is averaged; whether the stacked model works is to be measured. It
costs one copy of the weights.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.errors import MergeError
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import MergeConfig, Weight, each


class Config(MergeConfig):
    """A factor."""

    base_is_input: ClassVar[bool] = True

    scale: Annotated[Weight, Field(description="factor of the tensor")] = 1.0

    def check(self, count: int, where: str) -> None:
        if count != 1:
            raise MergeError(
                f"passthrough takes one source, not {count}",
                where=where,
                hint="give each slice one source, or choose a method that merges",
            )


@method(version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """The one source's rows, scaled.

    Raises:
        MergeError: there are several sources.
    """
    config.check(tensor.count, tensor.name)
    (scale,) = each(config.scale, 1, "scale")

    def block(rows: Block) -> torch.Tensor:
        return rows.experts[0] * scale if scale != 1 else rows.experts[0]

    return block
