"""A merging method on tensors in memory."""

from collections.abc import Sequence
from typing import Any

import torch

from trivet._validation import validate
from trivet.catalogue import find
from trivet.merge._group import BLOCK_ELEMENTS, MemoryGroup
from trivet.merge.recipe import ALIASES


def merge_tensors(
    method: str,
    experts: Sequence[torch.Tensor],
    base: torch.Tensor | None = None,
    *,
    seed: int = 0,
    name: str = "tensor",
    block_elements: int = BLOCK_ELEMENTS,
    **settings: Any,
) -> torch.Tensor:
    """Merge tensors of one shape.

    Args:
        method: a method of the room ``merge``, such as ``ties``.
        experts: the models' tensors, any floating type.
        base: the base's tensor, for methods that work on task vectors.
        seed: of methods that draw.
        name: of the tensor; some methods treat embeddings apart, and random draws depend on it.
        block_elements: how much is worked on at a time; the result does not depend on it.
        settings: the method's own, as in a recipe (``lambda`` as ``lambda_``); a sequence has a value for
            each expert.

    Returns:
        The merged tensor, float32, in the experts' shape.

    Raises:
        ConfigError: the method or a setting is not known.
        MergeError: the tensors do not fit together.
    """
    found = find(f"merge/{ALIASES.get(method, method)}")
    config = validate(found.config, settings, where=found.name)
    group = MemoryGroup(experts, base, name=name, seed=seed, block_elements=block_elements)
    return group.merged(found.function(config, group))
