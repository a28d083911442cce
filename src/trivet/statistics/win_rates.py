"""How often one policy beats another, by itself and after best-of-n or worst-of-n, from scores of answers.

"InfAlign: Inference-aware language model alignment" (arXiv 2412.19792), definitions 1 to 3. An answer y wins
against z by w(y, z) = 1 where its score is larger, ½ where they are equal, 0 else. With the selection T (the
best or the worst of n answers by that score) the inference-time win rate of π over p is

    W^T = E w(T(y_1 … y_n), T(z_1 … z_n)),    y ~ π, z ~ p, all independent

Both forms here are exact: for known distributions, and for samples as the mean over all subsets of n of them
(the U-statistic: unbiased, and without a random draw).
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Procedure = Literal["none", "best_of_n", "worst_of_n"]
"""What is done with n answers at inference: nothing (one is drawn), the best kept, or the worst."""

Floats = npt.NDArray[np.float64]


def calibrated(scores: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """Calibrated reward C of each score: the share of ``reference`` scores below it, ties counting half.

    It depends on the order of the scores alone, so a strictly increasing change of all of them changes
    nothing (definition 6).

    Args:
        scores: [answers].
        reference: scores of the reference policy's answers to the same prompt [K], K at least 1.

    Returns:
        [answers], each 0 to 1 in steps of 1 / (2 K).

    Raises:
        ValueError: there is no reference score, or a score is NaN.
    """
    values, known = _checked(scores), np.sort(_checked(reference))
    if not known.size:
        raise ValueError("a calibrated reward needs at least one score of the reference")
    below = np.searchsorted(known, values, side="left")
    equal = np.searchsorted(known, values, side="right") - below
    return np.asarray((below + equal / 2) / known.size, dtype=np.float64)


def leave_one_out_calibrated(reference: npt.ArrayLike) -> Floats:
    """Calibrated reward of each reference score against the others [K], K at least 2.

    Their mean is exactly ½, and for scores without ties they are the K evenly spaced values 0 … 1.
    """
    values = _checked(reference)
    if values.size < 2:
        raise ValueError("leaving one out needs at least two scores")
    return np.asarray((calibrated(values, values) * values.size - 0.5) / (values.size - 1))


def calibration_error(quantiles: npt.ArrayLike) -> float:
    """Largest distance between the distribution of calibrated rewards under the reference and the uniform
    one, 0 to 1: max_u |empirical cdf(u) − u|. Ties alone make it positive."""
    ordered = np.sort(_checked(quantiles))
    steps = np.arange(1, ordered.size + 1) / ordered.size
    return float(np.maximum(steps - ordered, ordered - (steps - 1 / ordered.size)).max())


def win_rate(
    policy: npt.ArrayLike, reference: npt.ArrayLike, procedure: Procedure = "none", n: int = 1
) -> float:
    """W^T of a policy over a reference for one prompt, from scores of independent answers.

    Args:
        policy: scores of the policy's answers [m].
        reference: scores of the reference's answers [k].
        n: answers that the procedure sees; m and k are at least n.

    Raises:
        ValueError: there are fewer than n scores, a score is NaN, n is below 1.
    """
    own, other = _checked(policy), _checked(reference)
    count = 1 if procedure == "none" else n
    if count < 1 or min(own.size, other.size) < count:
        raise ValueError(f"needs at least n = {count} ≥ 1 scores of each; got {own.size} and {other.size}")
    values = np.unique(np.concatenate([own, other]))
    if procedure == "worst_of_n":  # the worst wins where the best of what is negated loses
        values = -values[::-1]
        return 1 - _beats(_subsets(-own, values, count), _subsets(-other, values, count))
    return _beats(_subsets(own, values, count), _subsets(other, values, count))


def win_rate_of_distributions(
    scores: npt.ArrayLike,
    policy: npt.ArrayLike,
    reference: npt.ArrayLike,
    procedure: Procedure = "none",
    n: int = 1,
) -> float:
    """W^T for one prompt with finitely many answers: their scores and probabilities, each [answers].

    Raises:
        ValueError: the shapes differ, a score is NaN, n is below 1.
    """
    given, own, other = _checked(scores), _checked(policy), _checked(reference)
    count = 1 if procedure == "none" else n
    if not given.shape == own.shape == other.shape or count < 1:
        raise ValueError("scores and probabilities need one shape, and n is 1 or more")
    values, places = np.unique(-given if procedure == "worst_of_n" else given, return_inverse=True)
    selected = [_maximum(places, part, values.size, count) for part in (own, other)]
    return 1 - _beats(*selected) if procedure == "worst_of_n" else _beats(*selected)


def _maximum(places: npt.NDArray[np.intp], probabilities: Floats, size: int, n: int) -> Floats:
    """For each value the probability that the maximum of n draws is at most the value."""
    cumulative = np.cumsum(np.bincount(places, probabilities, size))
    return np.asarray(np.clip(cumulative, 0.0, 1.0) ** n, dtype=np.float64)


def _subsets(scores: Floats, values: Floats, n: int) -> Floats:
    """For each value the share of subsets of n scores whose maximum is at most the value."""
    counts = np.searchsorted(np.sort(scores), values, side="right")
    total = math.comb(scores.size, n)
    return np.array([math.comb(int(count), n) / total for count in counts], dtype=np.float64)


def _beats(own: Floats, other: Floats) -> float:
    """Win rate from two cumulative distributions over the same ascending values; ties count half."""
    below = np.concatenate([[0.0], other[:-1]])
    mass = np.diff(own, prepend=0.0)
    return float(mass @ (below + other) / 2)


def _checked(values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise ValueError("scores are a list of numbers, none of them NaN")
    return array
