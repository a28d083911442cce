"""A rate as a judge saw it, corrected for the judge's measured error."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trivet.statistics.agreement import Confusion
from trivet.statistics.interval import Estimated, Interval, normal_quantile
from trivet.statistics.upper_bounds import clopper_pearson_lower, clopper_pearson_upper

LEAST_YOUDEN = 0.3
"""No correction where the lower bound of Se + Sp - 1 is under this: dividing by it would only add noise."""


def corrected_rate(rate: float, n: float, calibration: Confusion, *, level: float = 0.95) -> Estimated:
    """``(p + Sp - 1)/(Se + Sp - 1)``, within [0, 1], with the uncertainty of rate and calibration.

    Rogan and Gladen 1978, *Estimating prevalence from the results of a screening test*. The interval is that
    of Lang and Reiczigel 2014, *Confidence limits for prevalence of disease adjusted for estimated
    sensitivity and specificity*: ``P' + dP ± z √(...)`` on adjusted counts (z²/2 successes and failures
    added to the rate, one each to sensitivity and specificity), cut to [0, 1]. Where
    all of it lies outside, the calibration contradicts the rate and no correction is made.

    Args:
        rate: share of the judged answers with the event, in [0, 1].
        n: answers judged; an effective sample size where they are clustered.
        calibration: the judge's verdicts on labelled answers.

    Returns:
        The estimate; its ``reason`` says why no correction is made.

    Raises:
        ValueError: ``rate`` is not in [0, 1] or ``n`` not positive.
    """
    if not 0 <= rate <= 1 or not n > 0:
        raise ValueError(f"a rate of {rate} over {n} answers is impossible")
    whole = max(1, round(n))
    youden = calibration.youden(level=level)
    if youden.value is None or youden.interval is None:
        return Estimated(None, None, None, whole, whole, f"the judge was not measured: {youden.reason}")
    if youden.interval.low < LEAST_YOUDEN:
        reason = (
            f"the judge is too weak for a correction: sensitivity + specificity - 1 is {youden.value:.2f}, "
            f"and its lower bound {youden.interval.low:.2f} is under {LEAST_YOUDEN}"
        )
        return Estimated(None, None, None, whole, whole, reason)
    specificity = calibration.specificity().value or 0.0
    value = min(max((rate + specificity - 1) / youden.value, 0.0), 1.0)
    error, interval = _lang_reiczigel(rate, n, calibration, level)
    if interval.high <= 0 or interval.low >= 1:
        reason = (
            f"a rate of {rate:.2f} is impossible with the measured sensitivity "
            f"{calibration.sensitivity().value:.2f} and specificity {specificity:.2f}: "
            "the calibration does not hold for these answers"
        )
        return Estimated(None, None, None, whole, whole, reason)
    low, high = max(min(interval.low, value), 0.0), min(max(interval.high, value), 1.0)
    return Estimated(value, error, interval._replace(low=low, high=high), whole, whole)


def _lang_reiczigel(rate: float, n: float, c: Confusion, level: float) -> tuple[float, Interval]:
    z = normal_quantile(level)
    size = n + z * z
    p = (n * rate + z * z / 2) / size
    n_se, n_sp = c.true_positive + c.false_negative + 2, c.true_negative + c.false_positive + 2
    se, sp = (c.true_positive + 1) / n_se, (c.true_negative + 1) / n_sp
    prevalence = (p + sp - 1) / (se + sp - 1)
    v_se, v_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z * z * (prevalence * v_se - (1 - prevalence) * v_sp)
    variance = p * (1 - p) / size + prevalence**2 * v_se + (1 - prevalence) ** 2 * v_sp
    error = math.sqrt(variance) / abs(se + sp - 1)
    low, high = prevalence + shift - z * error, prevalence + shift + z * error
    return error, Interval(low, high, level, "Rogan-Gladen, Lang-Reiczigel")


class ErrorLimits(NamedTuple):
    """A judge's error at its worst for an upper bound: sensitivity at least, specificity at most."""

    sensitivity_low: float
    specificity_high: float


def error_limits(calibration: Confusion, *, delta: float, clusters: int | None = None) -> ErrorLimits:
    """One-sided Clopper-Pearson limits, each wrong with probability at most ``delta``.

    Args:
        clusters: independent units (prompts) among the labelled answers. Where they are fewer than the
            answers, all counts shrink to as many answers, rounded to the careful side, as if the answers to
            one prompt were all alike. That is the worst case for clusters of one size (Kish 1965; Korn and
            Graubard 1998 put an effective size into the same formula).

    Returns:
        The limits; 0 and 1 where no labelled answer has the event, or none is free of it.
    """
    share = 1.0 if clusters is None else min(clusters / max(calibration.n, 1), 1.0)
    found = math.floor(calibration.true_positive * share)
    missed = math.ceil(calibration.false_negative * share)
    left = math.ceil(calibration.true_negative * share)
    wrong = math.floor(calibration.false_positive * share)
    sensitivity = float(clopper_pearson_lower(found, found + missed, delta=delta)) if found else 0.0
    specificity = float(clopper_pearson_upper(left, left + wrong, delta=delta)) if wrong else 1.0
    return ErrorLimits(sensitivity, specificity)


def corrected_upper_bound(rate_high: npt.ArrayLike, limits: ErrorLimits) -> npt.NDArray[np.float64]:
    """Upper bound of the true rate from an upper limit of the rate that the judge sees; any shape.

    ``(p_U + Sp_U - 1)/(Se_L + Sp_U - 1)``. With the three limits each wrong with probability at most δ/3, the
    bound is wrong with probability at most δ, whether or not the three samples are independent. The
    directions follow from the identity ``p = π Se + (1 - π)(1 - Sp)``: with 0 ≤ π ≤ 1, Se ≥ Se_L, Sp ≤ Sp_U,

        π Se_L + (1 - π)(1 - Sp_U) ≤ π Se + (1 - π)(1 - Sp) = p ≤ p_U,

    and solving for π gives the formula wherever its denominator is positive; elsewhere the bound is 1. So the
    specificity has to be taken at its *upper* limit, with which few verdicts are blamed on false positives.

    Where ``p_U + Sp_U < 1`` the formula is negative: fewer events were seen than false positives alone would
    make, so the measured specificity does not hold for these answers. It is then not used: with Sp_U = 1 the
    same line gives ``p_U/Se_L``, which is valid for every specificity. The bound therefore jumps down as p_U
    passes 1 - Sp_U, from where on the false positives explain what was seen.
    """
    p = np.asarray(rate_high, dtype=np.float64)
    high = np.where(p + limits.specificity_high < 1, 1.0, limits.specificity_high)
    denominator = limits.sensitivity_low + high - 1
    bound = np.divide(p + high - 1, denominator, out=np.ones_like(p), where=denominator > 0)
    return np.minimum(bound, 1.0)
