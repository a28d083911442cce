"""SLERP: interpolate between two models along the arc between their weights.

Spherical linear interpolation (Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985), applied
to each tensor as one vector. With θ the angle between W_0 and W_1,

    W = sin((1−t)θ)/sin θ · W_0 + sin(tθ)/sin θ · W_1,   cos θ = ⟨W_0, W_1⟩ / (‖W_0‖ ‖W_1‖).

The norm goes smoothly from one to the other instead of dipping as a straight line's does. Nearly parallel
or opposite tensors (|cos θ| above ``dot_threshold``) are interpolated linearly. ``base_model`` is the model
at t = 0, and there is exactly one other. It costs two looks at the weights: the angle is that of the whole
tensor.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.errors import MergeError
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import MergeConfig


class Config(MergeConfig):
    """Where on the arc."""

    needs_base: ClassVar[bool] = True
    passes: ClassVar[int] = 2

    t: float = Field(ge=0, le=1, description="0 is the base, 1 the other model")
    dot_threshold: float = Field(0.9995, ge=0, le=1, description="|cos θ| above which the line is taken")

    def check(self, count: int, where: str) -> None:
        if count != 1:
            raise MergeError(
                f"slerp takes the base and one other model, not {count}",
                where=where,
                hint="name two models, one of them as base_model",
            )


@method(version=1, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """The point at ``t`` for each block.

    Raises:
        MergeError: there is no base, or not exactly one other model.
    """
    tensor.require_base()
    config.check(tensor.count, tensor.name)
    if config.t in (0.0, 1.0):
        first, second = 1 - config.t, config.t
    else:
        cosine = _cosine(tensor)
        tensor.notes["cosine_to_base"] = cosine
        first, second = coefficients(config.t, cosine, config.dot_threshold)

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        return (rows.base * first).add_(rows.experts[0], alpha=second)

    return block


def coefficients(t: float, cosine: float, dot_threshold: float = 0.9995) -> tuple[float, float]:
    """The factors of both ends at ``t`` for an angle with that cosine."""
    if abs(cosine) > dot_threshold:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _cosine(tensor: TensorGroup) -> float:
    """Cosine between the base and the other model, both as one vector; sums in double precision."""
    product, base_square, other_square = 0.0, 0.0, 0.0
    for rows in tensor.blocks():
        assert rows.base is not None
        base, other = rows.base.double().flatten(), rows.experts[0].double().flatten()
        product += float(base @ other)
        base_square += float(base @ base)
        other_square += float(other @ other)
    norms = math.sqrt(base_square) * math.sqrt(other_square)
    # A tensor of zeros has no direction; as in mergekit it counts as orthogonal.
    return 0.0 if norms == 0 else max(-1.0, min(1.0, product / norms))
