"""Proximal policy optimisation of answers, token by token: the mathematics.

"Proximal Policy Optimization Algorithms" (arXiv 1707.06347) with the advantages of "High-Dimensional
Continuous Control Using Generalized Advantage Estimation" (arXiv 1506.02438), in the form that language
models are trained with ("Training language models to follow instructions with human feedback", arXiv
2203.02155). For the tokens y_1 … y_T of an answer, drawn from π_old after the states s_t, with values V:

    R_t = −β (log π_old(y_t|s_t) − log π_ref(y_t|s_t)) + 1[t = T] r(x, y)
    δ_t = R_t + γ V(s_{t+1}) − V(s_t)                       (V after the end is 0)
    A_t = Σ_l (γλ)^l δ_{t+l},   G_t = A_t + V(s_t)
    ρ_t = π(y_t|s_t) / π_old(y_t|s_t)
    L_π = −mean_t min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t)
    L_V = ½ mean_t max((V − G)², (clip(V, V_old − ε_v, V_old + ε_v) − G)²)

Tokens lie one after another, without padding; ``owners`` says which answer each belongs to, and ``weights``
[tokens] how much it counts in a mean: 1, or 0 for the tokens of an answer that could not be scored.
"""

from collections.abc import Callable

import torch


def places(owners: torch.Tensor) -> torch.Tensor:
    """The place of each token in its answer, from 0 [tokens]; ``owners`` ascends."""
    lengths = torch.bincount(owners)
    starts = lengths.cumsum(0) - lengths
    return torch.arange(len(owners), device=owners.device) - starts[owners]


def token_rewards(
    policy: torch.Tensor,
    reference: torch.Tensor,
    scores: torch.Tensor,
    owners: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """R of each token [tokens].

    Args:
        policy, reference: log-probability of each token under π_old and π_ref [tokens].
        scores: r of each answer [answers]; it is put on the answer's last token.
        beta: reward a nat.
    """
    rewards = -beta * (policy - reference)
    last = torch.bincount(owners).cumsum(0) - 1
    return rewards.index_add(0, last, scores.to(rewards.dtype))


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, owners: torch.Tensor, gamma: float, lam: float
) -> torch.Tensor:
    """A of each token [tokens] by generalised advantage estimation.

    Args:
        rewards, values: R and V of each token [tokens].
        gamma: discount a token; ``lam``: 0 (one step) to 1 (the whole rest of the answer).
    """
    place = places(owners)
    shape = (int(owners[-1]) + 1, int(place.max()) + 2)  # what stands behind the end is 0
    reward, value, found = (rewards.new_zeros(shape) for _ in range(3))
    reward[owners, place], value[owners, place] = rewards, values
    for step in reversed(range(shape[1] - 1)):
        delta = reward[:, step] + gamma * value[:, step + 1] - value[:, step]
        found[:, step] = delta + gamma * lam * found[:, step + 1]
    return found[owners, place]


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The mean of values [tokens]; 0 where no token counts. A value without weight may be anything."""
    mean: torch.Tensor = torch.where(weights > 0, values * weights, 0.0).sum() / weights.sum().clamp(min=1e-8)
    return mean


def normalised(
    values: torch.Tensor,
    weights: torch.Tensor,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> torch.Tensor:
    """Advantages [tokens] less their mean, over their standard deviation; without weight they become 0.

    Args:
        total: adds sums up over the processes.
    """
    known = torch.where(weights > 0, values, 0.0)
    count, first = total(torch.stack([weights.sum(), (known * weights).sum()]))
    centred = torch.where(weights > 0, known - first / count.clamp(min=1e-8), 0.0)
    variance = total((centred.square() * weights).sum()) / count.clamp(min=1e-8)
    scaled: torch.Tensor = centred / (variance.sqrt() + 1e-8)
    return scaled


def policy_loss(
    policy: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, weights: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """L_π, from log-probabilities under π and π_old and A of each token, each [tokens]."""
    ratio = (policy - old).exp()
    bounded = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -weighted_mean(torch.min(ratio * advantage, bounded * advantage), weights)


def value_loss(
    values: torch.Tensor, old: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """L_V, from V, V_old and G of each token, each [tokens]."""
    bounded = old + (values - old).clamp(-epsilon, epsilon)
    worse = torch.max((values - target).square(), (bounded - target).square())
    return 0.5 * weighted_mean(worse, weights)
