"""Calibrated rewards and win rates after best-of-n and worst-of-n against closed forms and enumeration."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from trivet.statistics.win_rates import (
    Procedure,
    calibrated,
    calibration_error,
    leave_one_out_calibrated,
    win_rate,
    win_rate_of_distributions,
)

PROCEDURES: tuple[Procedure, ...] = ("none", "best_of_n", "worst_of_n")


def beats(one: float, other: float) -> float:
    return float(one > other) + float(one == other) / 2


def enumerated(own: Any, other: Any, procedure: Procedure, n: int) -> float:
    """The mean over all pairs of subsets of n scores."""
    choose = {"none": lambda part: part[0], "best_of_n": max, "worst_of_n": min}[procedure]
    size = 1 if procedure == "none" else n
    pairs = itertools.product(itertools.combinations(own, size), itertools.combinations(other, size))
    return float(np.mean([beats(choose(one), choose(two)) for one, two in pairs]))


@pytest.mark.parametrize("procedure", PROCEDURES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_win_rate_of_samples_is_the_mean_over_all_subsets(procedure: Procedure, n: int) -> None:
    numbers = np.random.default_rng(n)
    own, other = numbers.integers(0, 5, 6), numbers.integers(0, 5, 5)  # with ties
    assert win_rate(own, other, procedure, n) == pytest.approx(
        enumerated(own, other, procedure, n), abs=1e-12
    )


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_the_win_rate_of_distributions_is_enumeration(procedure: Procedure) -> None:
    numbers = np.random.default_rng(3)
    scores = np.array([1.0, 2.0, 2.0, 0.5])
    own, other = numbers.dirichlet(np.ones(4)), numbers.dirichlet(np.ones(4))
    expected, size = 0.0, 1 if procedure == "none" else 3
    choose = {"none": max, "best_of_n": max, "worst_of_n": min}[procedure]
    for left in itertools.product(range(4), repeat=size):
        for right in itertools.product(range(4), repeat=size):
            mass = math.prod(own[list(left)]) * math.prod(other[list(right)])
            expected += mass * beats(choose(scores[list(left)]), choose(scores[list(right)]))
    found = win_rate_of_distributions(scores, own, other, procedure, 3)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_a_policy_wins_half_against_itself(procedure: Procedure) -> None:
    numbers = np.random.default_rng(4)
    scores, policy = numbers.integers(0, 4, 12), numbers.dirichlet(np.ones(12))
    assert win_rate_of_distributions(scores, policy, policy, procedure, 4) == pytest.approx(0.5, abs=1e-12)
    assert win_rate(scores, scores, procedure, 4) == pytest.approx(0.5, abs=1e-12)


def test_the_mean_of_calibrated_rewards_under_the_reference_is_a_half() -> None:
    numbers = np.random.default_rng(5)
    for scores in (numbers.normal(size=30), numbers.integers(0, 3, 30), np.zeros(30)):
        assert calibrated(scores, scores).mean() == pytest.approx(0.5, abs=1e-12)
        assert leave_one_out_calibrated(scores).mean() == pytest.approx(0.5, abs=1e-12)
    assert calibration_error(leave_one_out_calibrated(numbers.normal(size=50))) < 0.03
    assert calibration_error(leave_one_out_calibrated(np.zeros(50))) == pytest.approx(0.5)


def test_the_mean_of_calibrated_rewards_under_a_policy_is_its_win_rate() -> None:
    numbers = np.random.default_rng(6)
    own, reference = numbers.integers(0, 6, 40), numbers.integers(0, 6, 25)
    assert calibrated(own, reference).mean() == pytest.approx(win_rate(own, reference), abs=1e-12)
    scores = numbers.integers(0, 6, 10).astype(float)
    policy, base = numbers.dirichlet(np.ones(10)), numbers.dirichlet(np.ones(10))
    c = np.array([sum(base[k] * beats(one, scores[k]) for k in range(10)) for one in scores])
    assert c @ policy == pytest.approx(win_rate_of_distributions(scores, policy, base), abs=1e-12)


def test_calibrated_rewards_are_unchanged_by_increasing_transforms_and_shifts() -> None:
    numbers = np.random.default_rng(7)
    own, reference = numbers.integers(-3, 4, 20), numbers.integers(-3, 4, 30)
    plain = calibrated(own, reference)
    for change in (lambda x: np.exp(x), lambda x: 2 * x + 7, lambda x: x**3 - 50):
        assert np.array_equal(calibrated(change(own * 1.0), change(reference * 1.0)), plain)


def test_the_error_of_k_samples_is_within_its_bound() -> None:
    """Dvoretzky–Kiefer–Wolfowitz: sup |Ĉ − C| ≤ √(ln(2/δ) / 2K) with probability 1 − δ."""
    numbers, samples, runs = np.random.default_rng(8), 100, 2000
    errors = []
    for _ in range(runs):
        known = np.sort(numbers.random(samples))
        steps = np.arange(samples + 1) / samples
        errors.append(max(np.abs(known - steps[:-1]).max(), np.abs(known - steps[1:]).max()))
    for delta, bound in ((0.1, 0.1224), (0.05, 0.1358), (0.01, 0.1628)):
        assert math.sqrt(math.log(2 / delta) / (2 * samples)) == pytest.approx(bound, abs=5e-5)
        exceeded = np.mean(np.array(errors) > bound)
        assert exceeded <= delta + 3 * math.sqrt(delta * (1 - delta) / runs)


@pytest.mark.parametrize(
    "call",
    [
        lambda: calibrated([1.0], []),
        lambda: calibrated([float("nan")], [1.0]),
        lambda: leave_one_out_calibrated([1.0]),
        lambda: win_rate([1.0, 2.0], [1.0], "best_of_n", 2),
        lambda: win_rate([1.0], [1.0], "best_of_n", 0),
        lambda: win_rate_of_distributions([1.0], [1.0], [0.5, 0.5]),
    ],
)
def test_what_cannot_be_computed_is_refused(call: Any) -> None:
    with pytest.raises(ValueError, match=r"score|shape"):
        call()
