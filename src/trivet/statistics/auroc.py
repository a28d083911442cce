"""The area under the ROC curve, with DeLong's interval."""

import math
import warnings

import numpy as np
import numpy.typing as npt
from scipy import stats

from trivet.statistics.interval import Estimated, Interval, normal_quantile
from trivet.statistics.proportions import wilson

Floats = npt.NDArray[np.float64]


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike, *, level: float = 0.95) -> Estimated:
    """The chance that a positive scores above a negative, ties counting half.

    Variance: DeLong, DeLong and Clarke-Pearson 1988, *Comparing the areas under two or more correlated
    receiver operating characteristic curves*, with the placement values from mid-ranks (Sun and Xu 2014).
    The interval is taken on the logit scale, which keeps it within (0, 1). With perfect separation
    DeLong's variance is 0; the interval is then Wilson's with the smaller class as sample size.

    Args:
        labels: ``[n]`` of booleans or 0 and 1; ``scores``: ``[n]``, larger meaning positive.

    Raises:
        ValueError: the shapes differ, a label is not 0 or 1, or a score is not finite.
    """
    y, x = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if y.shape != x.shape or y.ndim != 1:
        raise ValueError("labels and scores must be one-dimensional and of one length")
    if not np.all((y == 0) | (y == 1)) or not np.all(np.isfinite(x)):
        raise ValueError("labels must be 0 or 1 and scores finite")
    positive, negative = x[y == 1], x[y == 0]
    n, m, k = len(x), len(positive), len(negative)
    if not m or not k:
        return Estimated(None, None, None, n, n, "both positives and negatives are needed")
    by_positive, by_negative = _placements(positive, negative)
    area = float(by_positive.mean())
    if m < 2 or k < 2:
        return Estimated(area, None, None, n, n, "two of each class are needed for an interval")
    error = math.sqrt(float(by_positive.var(ddof=1)) / m + float(by_negative.var(ddof=1)) / k)
    if error == 0 or area in (0.0, 1.0):
        smaller = min(m, k)
        interval = wilson(area * smaller, smaller, level=level)
        return Estimated(area, error, interval._replace(method="Wilson, smaller class"), n, n)
    half = normal_quantile(level) * error / (area * (1 - area))
    centre = math.log(area / (1 - area))
    low, high = (1 / (1 + math.exp(-(centre + sign * half))) for sign in (-1, 1))
    return Estimated(area, error, Interval(low, high, level, "DeLong, logit"), n, n)


def true_positive_rate_at(
    labels: npt.ArrayLike, scores: npt.ArrayLike, false_positive_rate: float, *, level: float = 0.95
) -> Estimated:
    """Share of positives above the lowest threshold that lets through at most that share of negatives.

    Warns (``UserWarning``) with fewer than ``10 / false_positive_rate`` negatives: the threshold then rests
    on a handful of them.

    Raises:
        ValueError: ``false_positive_rate`` is not in (0, 1).
    """
    if not 0 < false_positive_rate < 1:
        raise ValueError("the false positive rate must lie strictly between 0 and 1")
    y, x = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    positive, negative = x[y == 1], np.sort(x[y == 0])[::-1]
    if not len(positive) or not len(negative):
        return Estimated(None, None, None, len(x), len(x), "both positives and negatives are needed")
    if len(negative) < 10 / false_positive_rate:
        warnings.warn(
            f"a false positive rate of {false_positive_rate:g} needs about {10 / false_positive_rate:.0f} "
            f"negatives; there are {len(negative)}",
            stacklevel=2,
        )
    allowed = math.floor(false_positive_rate * len(negative))
    hits = int((positive > negative[allowed]).sum())
    rate = hits / len(positive)
    error = math.sqrt(rate * (1 - rate) / len(positive))
    return Estimated(rate, error, wilson(hits, len(positive), level=level), len(x), len(x))


def _placements(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """For each positive the share of negatives below it; for each negative that of positives above."""
    m, k = len(positive), len(negative)
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    by_positive = (ranks[:m] - stats.rankdata(positive)) / k
    by_negative = 1 - (ranks[m:] - stats.rankdata(negative)) / m
    return by_positive, by_negative
