"""Transforms of the calibrated reward, and what a policy that is optimal for one of them achieves.

"InfAlign: Inference-aware language model alignment" (arXiv 2412.19792), sections 4 and 5. For a continuous
reward the answers to a prompt are points u of [0, 1], their quantiles under the reference policy, and the
reference is uniform. The policy that is optimal for the reward Φ(u) under a KL penalty β has the density
f(u) = exp(Φ(u) / β) / Z and the distribution function F, and

    KL = (1/β) ∫ Φ f du − ln Z
    W of best of n  = 1 − n ∫ F(u)^n u^(n−1) du
    W of worst of n = n ∫ (1 − F(u))^n (1 − u)^(n−1) du

It is optimal for W − β KL itself where Φ is the derivative of W (up to a constant), a fixed point:

    Φ'(u) = n² (F(u) u)^(n−1)   (best of n)      Φ'(u) = n² ((1 − F(u)) (1 − u))^(n−1)   (worst of n)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from trivet.errors import ConfigError
from trivet.statistics.win_rates import Procedure

Floats = npt.NDArray[np.float64]
Transform = Literal["identity", "log", "exponential", "fixed_point"]

GRID = np.linspace(0.0, 1.0, 20_001)
"""The quantiles at which curves are computed; integrals are by the trapezoid rule."""

DAMPING, RESIDUAL, SWEEPS = 0.5, 1e-9, 5_000
_SCALES = (1e-3, 1e3)  # in units of β over the range of Φ


@dataclass(frozen=True)
class Outcome:
    """What a policy achieves: ``kl`` in nats, ``win_rate`` after the procedure, and
    ``objective`` = win_rate − β · kl."""

    kl: float
    win_rate: float
    objective: float


def exponential(u: npt.ArrayLike, t: float) -> Floats:
    """Φ(u) = sign(t) exp(t u): t = 10 is nearly optimal for the best of 4 and t = −10 for the worst of 4."""
    return np.asarray(math.copysign(1.0, t) * np.exp(t * np.asarray(u, dtype=np.float64)))


def log_of_samples(quantiles: npt.ArrayLike, samples: int) -> Floats:
    """Φ(u) = log u for a calibrated reward that was estimated with so many samples.

    The lowest rank has u = 0, whose logarithm is not finite; so (a + b/2 + ½) / (K + 1) is taken in place of
    (a + b/2) / K, where a of K samples are below and b equal.
    """
    return np.asarray(np.log((np.asarray(quantiles, dtype=np.float64) * samples + 0.5) / (samples + 1)))


def outcome(phi: Floats, beta: float, procedure: Procedure, n: int = 1) -> Outcome:
    """What the policy that is optimal for Φ at β achieves. ``phi``: [20,001], the values on ``GRID``; −∞ at
    an end is possible."""
    density, log_normaliser = _density(phi, beta)
    mass = np.where(density > 0, np.where(np.isfinite(phi), phi, 0.0) * density, 0.0)
    kl = _integral(mass)[-1] / beta - log_normaliser
    win = _win(_integral(density), procedure, n)
    return Outcome(float(kl), win, win - beta * float(kl))


def fixed_point(beta: float, procedure: Procedure, n: int) -> Floats:
    """The Φ that is optimal for W − β KL, on ``GRID`` [20,001], with Φ(0) = 0.

    Without a procedure it is u itself. The iteration is damped, and more so whenever it moved away.

    Raises:
        ConfigError: the iteration does not settle, or the grid is too coarse for it, which happens where n is
            large and β small.
    """
    phi = GRID.copy()
    if procedure == "none" or n == 1:
        return phi
    damping, last = DAMPING, math.inf
    for _ in range(SWEEPS):
        cumulative = _integral(_density(phi, beta)[0])
        if procedure == "best_of_n":
            slope = n**2 * (cumulative * GRID) ** (n - 1)
        else:
            slope = n**2 * ((1 - cumulative).clip(0) * (1 - GRID)) ** (n - 1)
        change = _integral(slope) - phi
        residual = float(np.abs(change).max())
        if residual < RESIDUAL:
            break
        damping = damping / 2 if residual > last else damping
        phi, last = phi + damping * change, residual
    plain = outcome(GRID, beta, procedure, n).objective
    if residual >= RESIDUAL or outcome(phi, beta, procedure, n).objective < plain:
        raise ConfigError(
            f"transform: the fixed point for n = {n} at beta = {beta:g} was not found in {SWEEPS:,} sweeps",
            hint="raise beta, or use the exponential transform",
        )
    return phi


def best_scale(phi: Floats, beta: float, procedure: Procedure, n: int) -> float:
    """The factor a for which the policy that is optimal for a Φ at β has the largest W − β KL.

    Φ → a Φ + b with β → a β has the same optimum, so the scale of a transform and β are one parameter. With
    this factor β means the same for every transform: the price of a nat in win rate.
    """
    spread = np.ptp(phi[np.isfinite(phi)])
    low, high = (math.log(limit * beta / spread) for limit in _SCALES)
    found = minimize_scalar(
        lambda size: -outcome(math.exp(size) * phi, beta, procedure, n).objective,
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-5},
    )
    return math.exp(float(found.x))


def make_transform(
    kind: Transform,
    *,
    beta: float,
    procedure: Procedure,
    n: int,
    t: float,
    rescale: bool,
) -> Callable[[Floats, int], Floats]:
    """Φ as a function of calibrated rewards [answers] and the number of samples that they are estimated with.

    Args:
        t: exponent of the exponential transform.
        rescale: multiply by ``best_scale``; the fixed point has its scale already.

    Raises:
        ConfigError: see ``fixed_point``.
    """
    if kind == "fixed_point":
        curve = fixed_point(beta, procedure, n)
        return lambda quantiles, samples: np.interp(quantiles, GRID, curve)
    curve = curve_of(kind, t)
    scale = best_scale(curve, beta, procedure, n) if rescale else 1.0
    if kind == "log":
        return lambda quantiles, samples: scale * log_of_samples(quantiles, samples)
    if kind == "exponential":
        return lambda quantiles, samples: scale * exponential(quantiles, t)
    return lambda quantiles, samples: scale * quantiles


def curve_of(kind: Literal["identity", "log", "exponential"], t: float) -> Floats:
    """Φ on ``GRID`` [20,001], before any scale."""
    if kind == "exponential":
        return exponential(GRID, t)
    if kind == "log":
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(GRID))
    return GRID


def _density(phi: Floats, beta: float) -> tuple[Floats, float]:
    """f on the grid, and ln Z."""
    top = float(phi.max())
    values = np.exp((phi - top) / beta)
    total = float(_integral(values)[-1])
    return values / total, math.log(total) + top / beta


def _integral(values: Floats) -> Floats:
    """Cumulative integral over the grid, 0 at its start."""
    steps = (values[1:] + values[:-1]) / 2 * (GRID[1] - GRID[0])
    return np.concatenate([[0.0], np.cumsum(steps)])


def _win(cumulative: Floats, procedure: Procedure, n: int) -> float:
    if procedure == "worst_of_n":
        rest = (1 - cumulative).clip(0)
        return float(n * _integral(rest**n * (1 - GRID) ** (n - 1))[-1])
    count = 1 if procedure == "none" else n
    return float(1 - count * _integral(cumulative**count * GRID ** (count - 1))[-1])
