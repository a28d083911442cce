"""Transforms and fixed points of InfAlign against closed forms and figures that were computed apart."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from trivet.errors import ConfigError
from trivet.statistics.win_rates import Procedure
from trivet.train.inference_transforms import (
    GRID,
    Floats,
    best_scale,
    curve_of,
    exponential,
    fixed_point,
    log_of_samples,
    make_transform,
    outcome,
)

TOLERANCE = 2e-4  # of the figures below, which are rounded


@pytest.mark.parametrize("beta", [1.0, 0.25, 0.1])
@pytest.mark.parametrize("procedure", ["best_of_n", "worst_of_n", "none"])
def test_for_one_answer_the_fixed_point_is_the_quantile(beta: float, procedure: Procedure) -> None:
    phi = fixed_point(beta, procedure, 1)
    assert np.array_equal(phi, GRID)
    closed = 1 / (1 - math.exp(-1 / beta)) - beta
    assert outcome(phi, beta, procedure, 1).win_rate == pytest.approx(closed, abs=1e-4)


@pytest.mark.parametrize(
    ("procedure", "n", "beta", "kl", "win", "objective"),
    [
        ("none", 1, 1.0, 0.0407, 0.5820, 0.54132),
        ("none", 1, 0.25, 0.4794, 0.7687, 0.64881),
        ("best_of_n", 2, 1.0, 0.0588, 0.6243, 0.56546),
        ("best_of_n", 2, 0.25, None, None, 0.69092),
        ("worst_of_n", 2, 1.0, 0.0736, 0.6474, 0.57385),
        ("worst_of_n", 2, 0.25, 0.5564, 0.8752, 0.73611),
        ("best_of_n", 4, 1.0, 0.0827, 0.6897, 0.60696),
        ("best_of_n", 4, 0.25, 0.4401, 0.8593, 0.74929),
        ("worst_of_n", 4, 1.0, 0.1242, 0.7634, 0.63911),
        ("worst_of_n", 4, 0.25, 0.4545, 0.9375, 0.82387),
        ("best_of_n", 8, 1.0, None, None, 0.66556),
        ("worst_of_n", 8, 1.0, None, None, 0.73354),
    ],
)
def test_what_the_fixed_point_achieves(
    procedure: Procedure, n: int, beta: float, kl: float | None, win: float | None, objective: float
) -> None:
    found = outcome(fixed_point(beta, procedure, n), beta, procedure, n)
    assert found.objective == pytest.approx(objective, abs=TOLERANCE)
    assert kl is None or found.kl == pytest.approx(kl, abs=TOLERANCE)
    assert win is None or found.win_rate == pytest.approx(win, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("procedure", "t", "beta", "expected", "identity"),
    [
        ("best_of_n", 10.0, 1.0, 0.60679, 0.56407),
        ("worst_of_n", -10.0, 1.0, 0.63545, 0.58136),
        ("worst_of_n", -10.0, 0.25, 0.82347, 0.76286),
    ],
)
def test_what_rescaled_transforms_achieve(
    procedure: Procedure, t: float, beta: float, expected: float, identity: float
) -> None:
    for curve, figure in ((exponential(GRID, t), expected), (GRID, identity)):
        scaled = best_scale(curve, beta, procedure, 4) * curve
        assert outcome(scaled, beta, procedure, 4).objective == pytest.approx(figure, abs=TOLERANCE)


@pytest.mark.parametrize("beta", [1.0, 0.25])
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("procedure", ["best_of_n", "worst_of_n"])
def test_no_other_transform_is_better_than_the_fixed_point(beta: float, n: int, procedure: Procedure) -> None:
    best = outcome(fixed_point(beta, procedure, n), beta, procedure, n).objective
    other: Procedure = "worst_of_n" if procedure == "best_of_n" else "best_of_n"
    curves = [GRID, curve_of("log", 0.0), fixed_point(beta, other, n)]
    curves += [exponential(GRID, t) for t in (-10.0, -5.0, 5.0, 10.0)]
    for curve in curves:
        scaled = best_scale(curve, beta, procedure, n) * curve
        assert outcome(scaled, beta, procedure, n).objective <= best + 1e-6
    wrong = outcome(fixed_point(beta, other, n), beta, procedure, n).objective
    assert wrong < best - 1e-3


@pytest.mark.parametrize(
    ("curve", "win"),
    [
        (GRID, 0.7863),
        (curve_of("log", 0.0), 0.7523),
        (exponential(GRID, 5.0), 0.8437),
        (exponential(GRID, 10.0), 0.8580),
        (exponential(GRID, 20.0), 0.8532),
        (fixed_point(0.25, "best_of_n", 4), 0.8593),
    ],
)
def test_win_rates_at_equal_divergence(curve: Floats, win: float) -> None:
    unit = curve / np.ptp(curve[np.isfinite(curve)])
    size = brentq(lambda a: outcome(math.exp(a) * unit, 0.25, "none").kl - 0.4401, -4.0, 3.0)
    found = outcome(math.exp(size) * unit, 0.25, "best_of_n", 4)
    assert found.kl == pytest.approx(0.4401, abs=1e-4)
    assert found.win_rate == pytest.approx(win, abs=TOLERANCE)


@pytest.mark.parametrize(("n", "kl"), [(2, 0.19315), (4, 0.63629), (8, 1.20444)])
def test_the_policy_that_is_best_of_n_has_the_closed_forms(n: int, kl: float) -> None:
    """f = n u^(n−1), which is Φ = (n − 1) log u at β = 1."""
    with np.errstate(divide="ignore"):
        found = outcome((n - 1) * np.log(GRID), 1.0, "none")
    assert found.kl == pytest.approx(math.log(n) - (n - 1) / n, abs=1e-4)
    assert found.kl == pytest.approx(kl, abs=1e-4)
    assert found.win_rate == pytest.approx(n / (n + 1), abs=1e-6)


@pytest.mark.parametrize("procedure", ["none", "best_of_n", "worst_of_n"])
def test_the_reference_itself_wins_half(procedure: Procedure) -> None:
    found = outcome(np.zeros_like(GRID), 0.3, procedure, 4)
    assert (found.kl, found.win_rate) == pytest.approx((0.0, 0.5), abs=1e-6)


def test_an_affine_change_with_its_beta_has_the_same_optimum() -> None:
    phi = exponential(GRID, 3.0)
    plain = outcome(phi, 0.5, "best_of_n", 4)
    changed = outcome(7.0 * phi + 2.0, 3.5, "best_of_n", 4)
    assert (changed.kl, changed.win_rate) == pytest.approx((plain.kl, plain.win_rate), abs=1e-6)
    one = best_scale(phi, 0.5, "best_of_n", 4) * phi
    two = best_scale(7.0 * phi, 0.5, "best_of_n", 4) * 7.0 * phi
    assert np.abs(one - two).max() < 1e-3 * np.ptp(one)


def test_transforms_of_estimated_quantiles() -> None:
    quantiles = np.array([0.0, 0.25, 1.0])
    logs = log_of_samples(quantiles, 100)
    assert np.isfinite(logs).all()
    assert logs[1] == pytest.approx(math.log(25.5 / 101))
    plain = {"beta": 0.25, "procedure": "best_of_n", "n": 4, "t": 10.0}
    raw = make_transform("exponential", rescale=False, **plain)  # type: ignore[arg-type]
    assert raw(quantiles, 100) == pytest.approx(np.exp(10 * quantiles))
    scaled = make_transform("exponential", rescale=True, **plain)(quantiles, 100)  # type: ignore[arg-type]
    assert scaled / scaled[0] == pytest.approx(np.exp(10 * quantiles))
    assert np.ptp(scaled) < 2  # of the order of the win rate, not 22,026
    fixed = make_transform("fixed_point", rescale=True, **plain)(quantiles, 100)  # type: ignore[arg-type]
    assert fixed[0] == 0 and (np.diff(fixed) > 0).all()
    assert make_transform("identity", rescale=False, **plain)(quantiles, 1) == pytest.approx(quantiles)  # type: ignore[arg-type]
    assert make_transform("log", rescale=False, **plain)(quantiles, 100) == pytest.approx(logs)  # type: ignore[arg-type]


def test_an_iteration_that_does_not_settle_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.train.inference_transforms.SWEEPS", 3)
    with pytest.raises(ConfigError, match="was not found in 3 sweeps"):
        fixed_point(0.25, "best_of_n", 4)


def test_a_solution_that_the_grid_spoils_is_not_taken() -> None:
    with pytest.raises(ConfigError, match="was not found"):
        fixed_point(0.05, "best_of_n", 256)
