"""A limit on the cost in policy optimisation, pessimistically: the mathematics of HC-RLHF's part A.

"Reinforcement Learning from Human Feedback with High-Confidence Safety Constraints" (arXiv 2506.08266). With
mean μ and standard deviation s of n_c costs of the candidate's answers, and n_s prompts planned for the
safety test, the bound that the test will find is predicted as

    U = μ + κ s,      κ = C₁ t(1−δ, n_c−1)/√n_c + C₂ t(1−δ, n_s−1)/√n_s

of which the gradient is that of the mean of C_aug = C + κ (C² − 2 C μ)/(2 s), μ and s being constants. The
Lagrangian max_π min_λ E R − β KL − λ (U − τ) is climbed by REINFORCE with the return

    G = clip( R − β Σ_t (log π − log π_ref), ±50 ) − λ C_aug

which is not divided by 1 + λ, and λ = exp(l) moves by gradient on l: l ← l + η λ (U − τ), up to log λ_max.

The paper's code takes κ with the number of answers in a batch for C_aug and with that of a buffer for λ,
while μ and s come from the buffer in both. Here n_c is the number of costs in the buffer everywhere.

Everything takes arrays, so that many runs are simulated at once.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from trivet.statistics.upper_bounds import check_delta
from trivet.train.rloo import returns

Floats = npt.NDArray[np.float64]

SMALLEST_DEVIATION = 1e-6
"""Below it costs count as all alike: the bound is their mean, and C_aug is C."""


def kappa(candidate: int, test: int, *, delta: float, c1: float = 1.0, c2: float = 1.0) -> float:
    """κ, standard deviations between the mean cost and the predicted bound.

    Args:
        candidate: n_c, costs that mean and deviation are taken from.
        test: n_s, prompts of the safety test.
        delta: of the test, between 0 and ½.
        c1, c2: inflation of the two parts, against over-fitting; both 0 leave the plain constraint E C ≤ τ of
            Safe-RLHF.

    Raises:
        ValueError: fewer than two costs or prompts, or ``delta`` out of range.
    """
    check_delta(delta)
    if min(candidate, test) < 2:
        raise ValueError(f"a deviation needs two costs, not {candidate} and {test}")
    parts = [c * float(stats.t.isf(delta, n - 1)) / math.sqrt(n) for c, n in ((c1, candidate), (c2, test))]
    return sum(parts)


def predicted_bound(mean: npt.ArrayLike, deviation: npt.ArrayLike, kappa: float) -> Floats:
    """U = μ + κ s, any shape."""
    return np.asarray(mean, dtype=np.float64) + kappa * np.asarray(deviation, dtype=np.float64)


def augmented_costs(
    costs: npt.ArrayLike, mean: npt.ArrayLike, deviation: npt.ArrayLike, kappa: float
) -> Floats:
    """C_aug of each cost; ``mean`` and ``deviation`` are constants that broadcast against ``costs``.

    Where the deviation is below ``SMALLEST_DEVIATION``, it is C.
    """
    c, mu, s = (np.asarray(part, dtype=np.float64) for part in (costs, mean, deviation))
    spread = s >= SMALLEST_DEVIATION
    return np.asarray(c + np.where(spread, kappa * (c**2 - 2 * c * mu) / (2 * np.where(spread, s, 1.0)), 0.0))


def dual_step(
    log_multiplier: npt.ArrayLike,
    bound: npt.ArrayLike,
    limit: float,
    *,
    learning_rate: float,
    largest: float,
) -> Floats:
    """log λ after a step: it grows where the predicted bound is above the limit, up to log ``largest``."""
    log = np.asarray(log_multiplier, dtype=np.float64)
    step = learning_rate * np.exp(log) * (np.asarray(bound, dtype=np.float64) - limit)
    return np.asarray(np.minimum(log + step, math.log(largest)))


def constrained_returns(
    rewards: torch.Tensor,
    penalties: torch.Tensor,
    policy: torch.Tensor,
    reference: torch.Tensor,
    *,
    beta: float,
    clip: float,
) -> torch.Tensor:
    """G of each answer [answers]; NaN where the reward is.

    Args:
        penalties: λ C_aug [answers].
        policy, reference: log-probability of each answer, summed over its tokens [answers].
        clip: reward and KL together are held within ±clip before the penalty is subtracted.
    """
    return returns(rewards, policy, reference, beta).clamp(-clip, clip) - penalties
