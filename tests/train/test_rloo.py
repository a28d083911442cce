"""Leave-one-out REINFORCE: gradients against TRL's form and against exact expectations on a small policy."""

import itertools

import numpy as np
import pytest
import torch

from trivet.statistics.win_rates import Procedure, win_rate_of_distributions
from trivet.train.inference_transforms import exponential
from trivet.train.rloo import leave_one_out_advantages, loss, returns


def test_the_gradient_is_that_of_trls_ratio_form() -> None:
    torch.manual_seed(0)
    policy = torch.randn(12, dtype=torch.float64, requires_grad=True)
    reference, rewards = torch.randn(12, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    given = returns(rewards, policy, reference, 0.3, clip=(-1.0, 1.0))
    advantages = leave_one_out_advantages(given, 4)
    loss(policy, advantages).backward()
    found = policy.grad
    policy.grad = None

    total = rewards.clamp(-1.0, 1.0) - 0.3 * (policy - reference).detach()  # as TRL 1.16 computes it
    grouped = total.view(-1, 4)
    baselines = ((grouped.sum(1, keepdim=True) - grouped) / 3).view(-1)
    ratio = torch.exp(policy - policy.detach())
    weights = total - baselines
    (-torch.min(ratio * weights, ratio.clamp(0.8, 1.2) * weights)).mean().backward()
    assert found is not None and policy.grad is not None
    assert (found - policy.grad).abs().max() < 1e-12


def test_the_gradient_is_that_of_the_papers_other_form() -> None:
    """1/(k−1) Σ (G_i − mean G) log π over k is the leave-one-out baseline averaged over k (card 08, 5)."""
    torch.manual_seed(1)
    given = torch.randn(10, dtype=torch.float64)
    grouped = given.view(-1, 5)
    expected = (grouped - grouped.mean(1, keepdim=True)).flatten() / 4
    assert torch.allclose(leave_one_out_advantages(given, 5) / 5, expected, atol=1e-14)


def test_answers_without_a_reward_take_no_part() -> None:
    nan = float("nan")
    found = leave_one_out_advantages(torch.tensor([1.0, nan, 3.0, nan, nan, 7.0, nan, nan, nan]), 3)
    assert found.tolist() == [-2.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    values = returns(torch.tensor([nan, 2.0]), torch.zeros(2), torch.ones(2), 0.5)
    assert values[0].isnan() and values[1] == 2.5


def test_the_scale_of_the_reward_stays() -> None:
    given = torch.randn(8, generator=torch.Generator().manual_seed(2))
    one, ten = leave_one_out_advantages(given, 4), leave_one_out_advantages(10 * given, 4)
    assert torch.allclose(ten, 10 * one, rtol=1e-5)
    assert torch.allclose(leave_one_out_advantages(given + 100, 4), one, atol=1e-4)


def test_the_expected_gradient_is_exact() -> None:
    """Over all draws of two answers from a policy over three, the mean gradient is that of E R − β KL."""
    beta = 0.4
    logits = torch.tensor([0.2, -0.5, 0.9], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)
    reference = torch.tensor([0.3, 0.1, -0.4], dtype=torch.float64).log_softmax(-1)
    policy = logits.log_softmax(-1)
    probabilities = policy.exp()
    objective = (probabilities * (reward - beta * (policy - reference))).sum()
    (expected,) = torch.autograd.grad(objective, logits, retain_graph=True)
    mean = torch.zeros(3, dtype=torch.float64)
    for drawn in itertools.product(range(3), repeat=2):
        picked = torch.tensor(drawn)
        given = returns(reward[picked], policy[picked], reference[picked], beta)
        value = loss(policy[picked], leave_one_out_advantages(given, 2))
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        mean += probabilities[picked].prod().detach() * -gradient
    assert (mean - expected).abs().max() < 1e-12


@pytest.mark.parametrize(("procedure", "t"), [("best_of_n", 1.5), ("worst_of_n", -1.5), ("none", 0.0)])
def test_exact_ascent_reaches_the_closed_form_and_its_win_rate_is_that_of_samples(
    procedure: Procedure, t: float
) -> None:
    """Card check 8: a softmax over 20 answers to each of three prompts."""
    numbers = np.random.default_rng(9)
    beta = 0.5
    scores = numbers.integers(0, 12, (3, 20)).astype(np.float64)  # with ties
    base = torch.tensor(numbers.dirichlet(np.full(20, 2.0), size=3))
    order = torch.tensor(scores)
    beats = (order[:, :, None] > order[:, None, :]).double()
    beats += (order[:, :, None] == order[:, None, :]).double() / 2
    calibrated = (beats * base[:, None, :]).sum(-1)
    assert ((calibrated * base).sum(-1) - 0.5).abs().max() < 1e-12
    phi = torch.tensor(exponential(calibrated.numpy(), t)) if t else calibrated
    optimum = (base.log() + phi / beta).softmax(-1)

    logits = base.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=400, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def negated() -> torch.Tensor:
        optimizer.zero_grad()
        policy = logits.log_softmax(-1)
        value = -(policy.exp() * (phi - beta * (policy - base.log()))).sum()
        value.backward()
        return value

    optimizer.step(negated)  # type: ignore[no-untyped-call]
    policy = logits.softmax(-1).detach()
    assert (policy - optimum).abs().sum(-1).max() / 2 < 1e-3

    draws = 100_000
    choose = np.min if procedure == "worst_of_n" else np.max
    size = 1 if procedure == "none" else 2
    for prompt in range(3):
        exact = win_rate_of_distributions(
            scores[prompt], policy[prompt].numpy(), base[prompt].numpy(), procedure, size
        )
        picked = [
            choose(scores[prompt][numbers.choice(20, (draws, size), p=part / part.sum())], axis=1)
            for part in (policy[prompt].numpy(), base[prompt].numpy())
        ]
        wins = (picked[0] > picked[1]) + (picked[0] == picked[1]) / 2
        assert abs(wins.mean() - exact) < 4 * wins.std() / np.sqrt(draws)


def _quantile_growth(t: float | None, share: float, seed: int) -> float:
    """How much a quantile of the reward grows in leave-one-out steps on a softmax over 400 answers, for
    equal divergence: the policy is moved on until its KL is 0.15."""
    numbers = torch.Generator().manual_seed(seed)
    reward = torch.linspace(0, 1, 400, dtype=torch.float64)
    phi = reward if t is None else torch.tensor(exponential(reward.numpy(), t))
    phi = phi / (phi.max() - phi.min())
    base = torch.full((400,), 1 / 400, dtype=torch.float64).log()
    logits = torch.zeros(400, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=20.0)
    for _ in range(4000):
        policy = logits.log_softmax(-1)
        if float((policy.exp() * (policy - base)).sum().detach()) > 0.15:
            break
        picked = torch.multinomial(policy.exp().detach(), 16, replacement=True, generator=numbers)
        optimizer.zero_grad()
        loss(policy[picked], leave_one_out_advantages(phi[picked], 16)).backward()
        optimizer.step()
    cumulative = policy.exp().detach().cumsum(0)
    place = int((cumulative < share).sum())
    return float(reward[place]) - share


@pytest.mark.slow
def test_exponential_transforms_move_the_tail_that_the_procedure_sees() -> None:
    """Card check 10 (direction, five seeds, majority), on a policy whose KL is known exactly."""
    upper = [_quantile_growth(10.0, 0.9, seed) > _quantile_growth(None, 0.9, seed) for seed in range(5)]
    lower = [_quantile_growth(-10.0, 0.1, seed) > _quantile_growth(None, 0.1, seed) for seed in range(5)]
    assert sum(upper) >= 3 and sum(lower) >= 3
