"""What the statistics return: an interval, and an estimate with the reason for what is missing."""

import math
from typing import NamedTuple

from scipy import stats


class Interval(NamedTuple):
    """A confidence interval with nominal coverage ``level``; ``method`` is its name in the field's terms."""

    low: float
    high: float
    level: float
    method: str


class Estimated(NamedTuple):
    """An estimate. What could not be had is ``None``, and ``reason`` says why; nothing is ever NaN.

    ``n`` counts observations with weight, ``clusters`` the independent units that they form.
    """

    value: float | None
    standard_error: float | None
    interval: Interval | None
    n: int
    clusters: int
    reason: str | None = None


def normal_quantile(level: float) -> float:
    """The two-sided standard normal quantile, 1.96 for ``level`` 0.95.

    Raises:
        ValueError: ``level`` is not strictly between 0 and 1.
    """
    check_level(level)
    return float(stats.norm.ppf((1 + level) / 2))


def t_quantile(level: float, degrees_of_freedom: float) -> float:
    """The two-sided quantile of Student's t."""
    check_level(level)
    return float(stats.t.ppf((1 + level) / 2, degrees_of_freedom))


def check_level(level: float) -> None:
    """Raise ``ValueError`` unless ``level`` is strictly between 0 and 1."""
    if not (0 < level < 1) or math.isnan(level):
        raise ValueError(f"level must lie strictly between 0 and 1, received {level}")
