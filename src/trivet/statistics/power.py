"""How many questions a comparison needs, and how small a difference it can see.

Miller 2024, *Adding error bars to evals* (arXiv 2411.00640), section 5: for two systems answering the same n
questions, ``n = (z_{1-α/2} + z_{1-β})² (ω² + σ_A²/K_A + σ_B²/K_B) / δ²``, where ω² is the variance over
questions of the true difference, σ² the mean variance within a question and K the answers a question.
"""

import math

from scipy import stats


def difference_variance(
    omega_squared: float,
    *,
    within_a: float = 0.0,
    within_b: float = 0.0,
    epochs_a: int = 1,
    epochs_b: int = 1,
) -> float:
    """Variance of one question's difference: ``ω² + σ_A²/K_A + σ_B²/K_B``.

    Raises:
        ValueError: a negative variance, or fewer than one answer a question.
    """
    if min(omega_squared, within_a, within_b) < 0 or min(epochs_a, epochs_b) < 1:
        raise ValueError("variances must not be negative and every question needs an answer")
    return omega_squared + within_a / epochs_a + within_b / epochs_b


def required_questions(delta: float, variance: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Questions needed to find a true difference ``delta`` with probability ``power``.

    Args:
        variance: variance of one question's difference, see ``difference_variance``.
        alpha: two-sided level; divide it by the size of a family of comparisons.

    Raises:
        ValueError: ``delta`` is 0, or ``alpha`` or ``power`` is out of range.
    """
    if delta == 0:
        raise ValueError("no number of questions finds a difference of 0")
    return math.ceil(_multiplier(alpha, power) ** 2 * variance / delta**2)


def minimum_detectable_effect(
    questions: int, variance: float, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference that ``questions`` questions find with probability ``power``.

    Raises:
        ValueError: fewer than one question, or ``alpha`` or ``power`` is out of range.
    """
    if questions < 1:
        raise ValueError("at least one question is needed")
    return _multiplier(alpha, power) * math.sqrt(variance / questions)


def minimum_detectable_effect_from(
    standard_error: float,
    *,
    degrees_of_freedom: float = math.inf,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """The same from the standard error of a difference that was measured; Student's t where it has few units.

    Raises:
        ValueError: a negative standard error, or ``alpha`` or ``power`` is out of range.
    """
    if standard_error < 0:
        raise ValueError("a standard error is not negative")
    return _multiplier(alpha, power, degrees_of_freedom) * standard_error


def _multiplier(alpha: float, power: float, degrees_of_freedom: float = math.inf) -> float:
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError("alpha and power must lie strictly between 0 and 1")
    if math.isinf(degrees_of_freedom):
        return float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))
    return float(stats.t.ppf(1 - alpha / 2, degrees_of_freedom) + stats.t.ppf(power, degrees_of_freedom))
