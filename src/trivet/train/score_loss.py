"""Losses on the scores of preference pairs, for reward and for cost models.

Scores [2 · pairs] stand as chosen, rejected, chosen, rejected, …
"""

import torch
from torch.nn.functional import logsigmoid


def reward_loss(
    scores: torch.Tensor, margins: torch.Tensor | None = None, *, center: float | None = None
) -> torch.Tensor:
    """Mean of −log σ(r_w − r_l − m), plus ``center`` · mean of (r_w + r_l)².

    The first term is the negative log-likelihood of Bradley and Terry's model (1952), as in arXiv 2203.02155,
    with the margin m of Llama 2 (arXiv 2307.09288). It knows scores only up to a constant; the second term,
    of "Helping or Herding?" (arXiv 2312.09244), keeps them around 0. TRL's RewardTrainer has the same two.

    Args:
        scores: r [2 · pairs].
        margins: m [pairs].
    """
    chosen, rejected = scores.view(-1, 2).unbind(dim=1)
    difference = chosen - rejected if margins is None else chosen - rejected - margins
    loss = -logsigmoid(difference).mean()
    return loss if center is None else loss + center * (chosen + rejected).square().mean()


def cost_loss(
    scores: torch.Tensor, signs: torch.Tensor | None = None, *, regularization: float = 0.0
) -> torch.Tensor:
    """Mean of −log σ(C_l − C_w) − Σ log σ(s · C), plus ``regularization`` · mean of C².

    "Safe RLHF" (arXiv 2310.12773), in the form of its official training code, whose regulariser this is too.

    Args:
        scores: C [2 · pairs]; the chosen answer is the safer one, which should cost less.
        signs: s [2 · pairs], +1 unsafe, −1 safe, 0 not labelled: such an answer has no sign term. Without any
            the loss does not change when a constant is added to all scores, and 0 means nothing.
    """
    chosen, rejected = scores.view(-1, 2).unbind(dim=1)
    loss = -logsigmoid(rejected - chosen).mean()
    if signs is not None:
        terms = torch.where(signs == 0, torch.zeros_like(scores), -logsigmoid(signs * scores))
        loss = loss + 2 * terms.mean()  # over pairs, of which each has two answers
    return loss + regularization * scores.square().mean() if regularization else loss
