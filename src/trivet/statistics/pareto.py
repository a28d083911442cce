"""Pareto fronts: who is dominated by whom, and the hypervolume that a set of systems covers.

Larger is better on every axis. Works on one set of points ``[S, D]`` and on bootstrap replicates of it
``[B, S, D]`` alike.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

TOLERANCE = 1e-12
"""Differences up to this are rounding: equal scores summed in another order."""

_CELLS = 4_000_000  # cells of the grid that are held at once


def dominance(points: npt.ArrayLike) -> Booleans:
    """``[..., S, S]``: whether ``i`` dominates ``j``: nowhere worse and somewhere better.

    Equal points do not dominate each other. Pareto dominance as in Zitzler and Thiele 1999,
    *Multiobjective evolutionary algorithms: a comparative case study and the strength Pareto approach*.

    Raises:
        ValueError: a coordinate is not finite, or the shape is not ``[..., S, D]``.
    """
    values = _checked(points)
    difference = values[..., :, None, :] - values[..., None, :, :]
    nowhere_worse = np.all(difference >= -TOLERANCE, axis=-1)
    somewhere_better = np.any(difference > TOLERANCE, axis=-1)
    return np.asarray(nowhere_worse & somewhere_better)


def on_front(points: npt.ArrayLike) -> Booleans:
    """``[..., S]``: whether a point is dominated by none."""
    return np.asarray(~dominance(points).any(axis=-2))


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """The volume that the points dominate, above the corner ``reference``. Exact.

    Zitzler and Thiele 1999. The coordinates of the points cut space into boxes, and a box counts where one
    point covers it: time S^(D+1), made for tens of systems on up to three axes.

    Args:
        points: ``[..., S, D]`` with D at most 3; a point at or below the corner on an axis adds nothing.
        reference: ``[D]``.

    Returns:
        float64 ``[...]``.

    Raises:
        ValueError: D is above 3 or differs from the reference's, or a coordinate is not finite.
    """
    values, corner = _checked(points), np.asarray(reference, dtype=np.float64)
    systems, axes = values.shape[-2:]
    if axes > 3 or corner.shape != (axes,):
        raise ValueError(f"up to three axes, and one reference coordinate for each; received {axes} axes")
    if not systems:
        return np.zeros(values.shape[:-2])
    above = np.maximum(values - corner, 0.0).reshape(-1, systems, axes)
    block = max(1, _CELLS // systems**axes)
    volumes = [_covered(above[start : start + block]) for start in range(0, len(above), block)]
    joined = np.concatenate(volumes) if volumes else np.zeros(0)
    return joined.reshape(values.shape[:-2])


def _covered(points: Floats) -> Floats:
    """``[B]``: the volume between 0 and the union of the boxes ``[0, point]`` of ``points`` ``[B, S, D]``."""
    count, systems, axes = points.shape
    edges = np.sort(points, axis=1)  # upper edges of the cells, [B, S, D]
    widths = np.diff(edges, axis=1, prepend=0.0)
    inside = points[:, :, None, :] >= edges[:, None, :, :]  # does point s reach over cell c? [B, S, C, D]
    letters = "ijk"[:axes]
    covered = np.zeros((count, *[systems] * axes), dtype=bool)
    for s in range(systems):
        cells = inside[:, s]
        box = cells[..., 0]
        for axis in range(1, axes):
            box = box[..., None] & cells[..., axis].reshape(count, *[1] * axis, systems)
        covered |= box
    operands = [widths[..., axis] for axis in range(axes)]
    formula = f"b{letters}," + ",".join(f"b{letter}" for letter in letters) + "->b"
    return np.asarray(np.einsum(formula, covered.astype(np.float64), *operands, optimize=True))


def _checked(points: npt.ArrayLike) -> Floats:
    values = np.asarray(points, dtype=np.float64)
    if values.ndim < 2:
        raise ValueError("points must have the shape [systems, axes]")
    if not np.all(np.isfinite(values)):
        raise ValueError("every coordinate must be finite; leave out a system that could not be scored")
    return values
