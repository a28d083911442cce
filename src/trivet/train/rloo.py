"""REINFORCE with a leave-one-out baseline: the mathematics.

"Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs" (arXiv
2402.14740). For k answers y_1 … y_k to one prompt, with the return

    R_i = r(x, y_i) − β Σ_t (log π(y_it) − log π_ref(y_it))                     (the k1 estimator of the KL)

the gradient is that of −(1/k) Σ_i A_i log π(y_i|x) with A_i = R_i − mean of R_j over j ≠ i, which is unbiased
and keeps the scale of the reward: nothing is divided by a standard deviation.
"""

import torch


def returns(
    rewards: torch.Tensor,
    policy: torch.Tensor,
    reference: torch.Tensor,
    beta: float,
    clip: tuple[float, float] | None = None,
) -> torch.Tensor:
    """R of each answer [answers]; NaN where the reward is.

    Args:
        rewards: [answers], NaN for an answer that could not be scored.
        policy, reference: log-probability of each answer, summed over its tokens [answers].
        clip: bounds of the reward before the KL is subtracted, as in TRL.
    """
    bounded = rewards if clip is None else rewards.clamp(*clip)
    return bounded - beta * (policy - reference).detach()


def leave_one_out_advantages(given: torch.Tensor, group: int) -> torch.Tensor:
    """A of each answer [answers], from returns [answers] whose consecutive ``group`` entries share a prompt.

    An answer with the return NaN is in no baseline and has the advantage 0, and so has an answer that is the
    only one of its prompt with a return.
    """
    values = given.view(-1, group)
    known = (~values.isnan()).sum(dim=1, keepdim=True)
    others = values.nansum(dim=1, keepdim=True) - values
    advantages = torch.where(known > 1, values - others / (known - 1).clamp(min=1), torch.zeros_like(values))
    return advantages.nan_to_num(nan=0.0).flatten()


def loss(policy: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """−mean A log π over the answers, both [answers]. Its gradient is that of the importance-weighted form of
    TRL where the answers were drawn from the policy as it is; its value has no meaning of its own."""
    return -(advantages.detach() * policy).mean()
