"""Adjusted p-values for a family of comparisons. Holm for claims, Benjamini-Hochberg for screening."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def holm(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Holm's adjusted p-values, which bound the chance of any false claim in the family.

    Holm 1979, *A simple sequentially rejective multiple test procedure*: with the p-values in ascending
    order, ``p̃_(i) = max_{j ≤ i} min(1, (m - j + 1) p_(j))``.

    Raises:
        ValueError: a value is not in [0, 1].
    """
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return _unsorted(np.minimum(steps, 1.0), order)


def benjamini_hochberg(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Adjusted p-values that bound the expected share of false claims among the claims made.

    Benjamini and Hochberg 1995, *Controlling the false discovery rate*: ``min_{j ≥ i} min(1, m p_(j) / j)``.

    Raises:
        ValueError: a value is not in [0, 1].
    """
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    return _unsorted(np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0), order)


def _checked(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p-values must lie in [0, 1]")
    return p


def _unsorted(adjusted: npt.NDArray[np.float64], order: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result
