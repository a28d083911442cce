"""The numbered checks of the card of MODPO (26) that need no model: on tensors and tabular policies."""

import itertools
from collections.abc import Sequence

import pytest
import torch

from trivet.train.modpo import modpo_terms
from trivet.train.preference_loss import pair_logits, pair_losses

BETA = 0.1


@pytest.fixture
def numbers() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def losses(
    ratios: torch.Tensor, rewards: torch.Tensor, weights: Sequence[float], beta: float = BETA
) -> torch.Tensor:
    """Loss of each pair, from log-ratios [answers] and rewards of the other objectives [answers, n − 1]."""
    scale, margins = modpo_terms(rewards, weights, beta)
    return pair_losses(pair_logits(scale * ratios, margins), "sigmoid")


def test_the_loss_is_that_of_the_paper(numbers: torch.Generator) -> None:
    ratios = torch.randn(8, generator=numbers, dtype=torch.float64)
    rewards = torch.randn(8, 2, generator=numbers, dtype=torch.float64)
    estimate = (BETA * ratios - 0.3 * rewards[:, 0] - 0.5 * rewards[:, 1]) / 0.2
    expected = -torch.nn.functional.logsigmoid(estimate[0::2] - estimate[1::2])
    torch.testing.assert_close(losses(ratios, rewards, (0.2, 0.3, 0.5)), expected)


def test_what_depends_on_the_prompt_alone_changes_nothing(numbers: torch.Generator) -> None:
    """Check 3."""
    ratios = torch.randn(8, generator=numbers, dtype=torch.float64)
    rewards = torch.randn(8, 2, generator=numbers, dtype=torch.float64)
    of_prompt = 5 * torch.randn(4, 2, generator=numbers, dtype=torch.float64).repeat_interleave(2, dim=0)
    weights = (0.5, 0.2, 0.3)
    torch.testing.assert_close(
        losses(ratios, rewards + of_prompt, weights), losses(ratios, rewards, weights), rtol=0, atol=1e-6
    )
    of_answer = torch.randn(8, 2, generator=numbers, dtype=torch.float64)
    assert (
        losses(ratios, rewards + of_answer, weights) - losses(ratios, rewards, weights)
    ).abs().max() > 1e-2


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_beta_and_weights_have_a_common_scale(numbers: torch.Generator, factor: float) -> None:
    """Check 4."""
    ratios = torch.randn(8, generator=numbers, dtype=torch.float64)
    rewards = torch.randn(8, 1, generator=numbers, dtype=torch.float64)
    scaled = losses(ratios, rewards, (0.4 * factor, 0.6 * factor), BETA * factor)
    torch.testing.assert_close(scaled, losses(ratios, rewards, (0.4, 0.6)), rtol=0, atol=1e-6)


def test_a_policy_that_is_the_reference_has_the_loss_of_the_margins(numbers: torch.Generator) -> None:
    """Check 5."""
    rewards = torch.randn(8, 1, generator=numbers, dtype=torch.float64)
    found = losses(torch.zeros(8, dtype=torch.float64), rewards, (0.25, 0.75))
    difference = (rewards[0::2] - rewards[1::2])[:, 0]
    expected = -torch.nn.functional.logsigmoid(-(0.75 / 0.25) * difference)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - torch.log(torch.tensor(2.0))).abs().max() > 0.1


class Tabular:
    """Six answers to one prompt: a reference, and the reward of the objective whose pairs are drawn."""

    def __init__(self, others: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        self.reference = draw(6).log_softmax(0)
        self.reward = draw(6)
        self.others = draw(6, others)

    def optimum(self, weights: Sequence[float], beta: float) -> torch.Tensor:
        """π_ref exp(w · r / β) / Z."""
        total = weights[0] * self.reward + self.others @ torch.tensor(weights[1:], dtype=torch.float64)
        return (self.reference + total / beta).softmax(0)

    def trained(self, weights: Sequence[float], beta: float) -> torch.Tensor:
        """The minimiser of the expected loss over all pairs, drawn after Bradley and Terry."""
        pairs = torch.tensor(list(itertools.permutations(range(6), 2)))
        probability = torch.sigmoid(self.reward[pairs[:, 0]] - self.reward[pairs[:, 1]])
        logits = self.reference.clone().requires_grad_()
        descent = torch.optim.LBFGS(
            [logits],
            max_iter=500,
            tolerance_grad=1e-12,
            tolerance_change=1e-16,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            descent.zero_grad()
            ratios = logits.log_softmax(0) - self.reference
            answers = pairs.flatten()
            loss = (probability * losses(ratios[answers], self.others[answers], weights, beta)).sum()
            loss.backward()
            return loss

        descent.step(closure)
        return logits.detach().softmax(0)


def variation(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().sum() / 2)


@pytest.mark.parametrize("weights", [(0.8, 0.2), (0.5, 0.5), (0.2, 0.8), (0.5, 0.2, 0.3), (1.0, 0.1, 2.0)])
def test_the_minimiser_is_the_optimum_of_the_weighted_rewards(weights: tuple[float, ...]) -> None:
    """Check 6; exchanging two weights gives another policy."""
    toy = Tabular(len(weights) - 1, seed=1)
    found = toy.trained(weights, beta=0.7)
    assert variation(found, toy.optimum(weights, beta=0.7)) < 1e-3
    exchanged = (weights[1], weights[0], *weights[2:])
    assert weights[0] == weights[1] or variation(found, toy.optimum(exchanged, beta=0.7)) > 0.05


def test_the_difference_of_the_rewards_grows_with_the_weight() -> None:
    """Check 7: d/dw E[r_k − r_−k] = Var(r_k − r_−k)/β; E[r_k] alone may fall."""
    toy = Tabular(1, seed=2)
    difference = toy.reward - toy.others[:, 0]
    step = 1e-5
    for weight in (0.1, 0.3, 0.5, 0.7, 0.9):
        policies = [toy.optimum((w, 1 - w), beta=0.7) for w in (weight - step, weight, weight + step)]
        low, middle, high = (float(policy @ difference) for policy in policies)
        spread = float(policies[1] @ difference**2) - middle**2
        assert (high - low) / (2 * step) == pytest.approx(spread / 0.7, abs=1e-6)
        assert spread >= 0
    means = [float(toy.trained((w / 10, 1 - w / 10), 0.7) @ difference) for w in range(1, 10, 2)]
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(means))


def test_a_small_weight_tends_to_the_model_of_the_margin() -> None:
    """Check 9: w_k → 0 with the implicit margin β log π_j/π_ref."""
    toy, beta = Tabular(1, seed=3), 0.7
    other = torch.randn(6, generator=torch.Generator().manual_seed(4), dtype=torch.float64).softmax(0)
    toy.others = beta * (other.log() - toy.reference)[:, None]
    assert variation(toy.trained((0.01, 1.0), beta), other) < 0.02
    assert variation(toy.trained((1.0, 1.0), beta), other) > 0.1
