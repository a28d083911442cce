"""Proximal policy optimisation: identities worked out by hand, and the optimum on policies known exactly."""

import itertools

import pytest
import torch

from trivet.train.ppo import (
    advantages,
    normalised,
    policy_loss,
    token_rewards,
    value_loss,
    weighted_mean,
)
from trivet.train.preference_loss import answer_sums
from trivet.train.rloo import leave_one_out_advantages, loss, returns

OWNERS = torch.tensor([0, 0, 0, 0, 1, 2, 2])
ONES = torch.ones(7, dtype=torch.float64)


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_advantages_of_the_whole_rest_are_returns_less_the_value() -> None:
    """Card 01, check 3: with λ = γ = 1, A_t = Σ_{k ≥ t} R_k − V_t."""
    rewards, values = numbers(0, 7), numbers(1, 7)
    found = advantages(rewards, values, OWNERS, 1.0, 1.0)
    for owner in range(3):
        own = rewards[owner == OWNERS]
        rest = own.flip(0).cumsum(0).flip(0)
        assert (found[owner == OWNERS] - (rest - values[owner == OWNERS])).abs().max() < 1e-12


def test_advantages_of_one_step_are_temporal_differences() -> None:
    """Card 01, check 3: with λ = 0, A_t = δ_t; the value behind an answer's end is 0."""
    rewards, values = numbers(2, 7), numbers(3, 7)
    found = advantages(rewards, values, OWNERS, 0.9, 0.0)
    behind = torch.tensor([values[1], values[2], values[3], 0.0, 0.0, values[6], 0.0])
    assert (found - (rewards + 0.9 * behind - values)).abs().max() < 1e-12


def test_advantages_of_four_tokens_by_hand() -> None:
    """Card 01, check 3: R = 0 0 0 1, V = 0.5 0.6 0.7 0.8, γ = 0.9, λ = 0.5."""
    rewards = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    values = torch.tensor([0.5, 0.6, 0.7, 0.8], dtype=torch.float64)
    deltas = [0.54 - 0.5, 0.63 - 0.6, 0.72 - 0.7, 1 - 0.8]
    last = deltas[3]
    third = deltas[2] + 0.45 * last
    second = deltas[1] + 0.45 * third
    expected = torch.tensor([deltas[0] + 0.45 * second, second, third, last], dtype=torch.float64)
    found = advantages(rewards, values, torch.zeros(4, dtype=torch.long), 0.9, 0.5)
    assert (found - expected).abs().max() < 1e-12


def test_the_score_is_on_the_last_token() -> None:
    """Card 01, check 5: at indices 3, 4 and 6 of answers with four, one and two tokens."""
    policy, reference = numbers(4, 7), numbers(5, 7)
    scores = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    found = token_rewards(policy, reference, scores, OWNERS, 0.3) + 0.3 * (policy - reference)
    assert (found - torch.tensor([0.0, 0, 0, 10, 20, 0, 30])).abs().max() < 1e-12


def test_tokens_without_weight_change_no_loss() -> None:
    """Card 01, check 5: masked tokens may hold anything, NaN as well."""
    policy, old, values, before, target = (numbers(seed, 7) for seed in range(6, 11))
    weights = torch.tensor([1.0, 1, 1, 1, 0, 1, 1], dtype=torch.float64)

    def losses(fill: float) -> tuple[torch.Tensor, torch.Tensor]:
        changed = [
            torch.where(weights > 0, one, fill)
            for one in (policy, old, values, before, target, numbers(11, 7))
        ]
        scaled = normalised(changed[5], weights)
        return (
            policy_loss(changed[0], changed[1], scaled, weights, 0.2),
            value_loss(changed[2], changed[3], changed[4], weights, 0.2),
        )

    plain = losses(0.5)
    for fill in (7.0, -100.0):
        other = losses(fill)
        assert all(abs(float(one - two)) < 1e-12 for one, two in zip(plain, other, strict=True))
    assert float(normalised(torch.where(weights > 0, policy, torch.nan), weights)[4]) == 0


def test_clipped_tokens_have_no_gradient() -> None:
    """Card 01, check 7: exactly 0 for A > 0 beyond 1 + ε and for A < 0 below 1 − ε, and only there."""
    ratios = torch.tensor([1.3, 1.3, 0.7, 0.7, 1.1, 0.9], dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    policy = ratios.log().requires_grad_()
    weights = torch.ones(6, dtype=torch.float64)
    policy_loss(policy, torch.zeros(6, dtype=torch.float64), advantage, weights, 0.2).backward()
    assert policy.grad is not None
    assert (policy.grad == 0).tolist() == [True, False, False, True, False, False]
    inside = torch.tensor([1, 2, 4, 5])
    assert torch.allclose(policy.grad[inside], -(ratios * advantage)[inside] / 6, atol=1e-12)


def test_a_value_that_moved_too_far_towards_its_target_has_no_gradient() -> None:
    """Step 3f of the card: the larger of both squares counts."""
    values = torch.tensor([0.5, 0.1, -0.5], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    old, weights = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    found = value_loss(values, old, target, weights, 0.2)
    assert float(found.detach()) == pytest.approx(0.5 * (0.8**2 + 0.9**2 + 1.5**2) / 3, abs=1e-12)
    found.backward()
    assert values.grad is not None and values.grad[0] == 0
    assert values.grad[1:].tolist() == pytest.approx([-0.9 / 3, -1.5 / 3])


def test_advantages_are_normalised_over_what_counts() -> None:
    """Step 3d of the card, also with sums that several processes add up."""
    values, weights = numbers(12, 40), (numbers(13, 40) > 0).double()
    found = normalised(values, weights)
    known = values[weights > 0]
    assert (found[weights > 0] - (known - known.mean()) / known.std(correction=0)).abs().max() < 1e-6
    assert abs(float(weighted_mean(found, weights))) < 1e-12
    doubled = normalised(values, weights, lambda sums: 2 * sums)  # two processes with the same tokens
    assert (doubled - found).abs().max() < 1e-12


def test_leave_one_out_gradients_are_those_of_reinforce_and_of_trl() -> None:
    """Card 01, check 6: equal gradients; TRL's loss is 0 at ratio 1, as leave-one-out advantages sum to 0."""
    policy = numbers(14, 12).requires_grad_()
    rewards, reference = numbers(15, 12), numbers(16, 12)
    given = returns(rewards, policy, reference, 0.2)
    (found,) = torch.autograd.grad(loss(policy, leave_one_out_advantages(given, 4)), policy)
    weights = torch.stack(
        [given[i] - (sum(given[i // 4 * 4 : i // 4 * 4 + 4]) - given[i]) / 3 for i in range(12)]
    ).detach()
    (own,) = torch.autograd.grad(-(weights * policy).mean(), policy)
    ratio = (policy - policy.detach()).exp()
    theirs = -torch.min(ratio * weights, ratio.clamp(0.8, 1.2) * weights).mean()
    (trl,) = torch.autograd.grad(theirs, policy)
    assert (found - own).abs().max() < 1e-12 and (found - trl).abs().max() < 1e-12
    assert abs(float(theirs.detach())) < 1e-12


# Eight answers of three binary tokens; a state is what was written: 1 + 2 + 4 of them in heap order.
ANSWERS = list(itertools.product((0, 1), repeat=3))
STATES = torch.tensor([[0, 1 + a, 3 + 2 * a + b] for a, b, _ in ANSWERS]).flatten()
CHOICES = torch.tensor(ANSWERS).flatten()
EIGHT = torch.arange(8).repeat_interleave(3)
REWARD = torch.tensor([0.3, -0.5, 1.0, 0.0, 0.7, -1.0, 0.2, 0.9], dtype=torch.float64)


def tokens(logits: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token of each answer [24], from logits of each state [7, 2]."""
    return logits.log_softmax(-1)[STATES, CHOICES]


def proximal(reference: torch.Tensor, beta: float, *, scaled: bool, steps: int = 100) -> torch.Tensor:
    """The policy [8] after rounds of two updates with exact expectations: answers weighted by π_old."""
    logits = torch.zeros(7, 2, dtype=torch.float64, requires_grad=True)
    values = torch.zeros(7, dtype=torch.float64)
    base = tokens(reference)
    for step in range(steps):
        with torch.no_grad():
            old = tokens(logits)
            weights = answer_sums(old, EIGHT, None).exp()[EIGHT]
            rewards = token_rewards(old, base, REWARD, EIGHT, beta)
            found = advantages(rewards, values[STATES], EIGHT, 1.0, 0.95)
            target = found + values[STATES]
            if scaled:
                found = normalised(found, weights)
            # the values that minimise the loss of this round: the mean target of each state
            totals = torch.zeros(2, 7, dtype=torch.float64).index_add(
                1, STATES, torch.stack([weights * target, weights])
            )
            values = totals[0] / totals[1]
        rate = 2.0 * (1 - step / steps) if scaled else 6.0 / (1 + beta)
        for _ in range(2):
            (slope,) = torch.autograd.grad(policy_loss(tokens(logits), old, found, weights, 0.2), logits)
            with torch.no_grad():
                logits -= rate * slope
    return answer_sums(tokens(logits.detach()), EIGHT, None).exp()


def reinforced(reference: torch.Tensor, beta: float, steps: int = 100) -> torch.Tensor:
    """The policy [8] after leave-one-out steps with the expectation over all pairs of draws."""
    logits = torch.zeros(7, 2, dtype=torch.float64, requires_grad=True)
    base = answer_sums(tokens(reference), EIGHT, None)
    pairs = torch.tensor(list(itertools.product(range(8), repeat=2))).flatten()
    for _ in range(steps):
        policy = answer_sums(tokens(logits), EIGHT, None)
        given = returns(REWARD, policy, base, beta)[pairs]
        chance = policy.detach().exp()[pairs].view(-1, 2).prod(1).repeat_interleave(2) * 64
        value = loss(policy[pairs], leave_one_out_advantages(given, 2) * chance)
        (slope,) = torch.autograd.grad(value, logits)
        with torch.no_grad():
            logits -= 4.0 / (1 + beta) * slope
    return answer_sums(tokens(logits.detach()), EIGHT, None).exp()


def distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """Total variation."""
    return float((one - two).abs().sum() / 2)


@pytest.mark.parametrize("algorithm", ["ppo", "ppo, normalised", "rloo"])
def test_exact_expectations_reach_the_closed_form(algorithm: str) -> None:
    """Card 01, check 4: π_ref exp(r/β)/Z within 0.02; a large β gives π_ref, a small one the best answer."""
    reference = 0.5 * numbers(17, 7, 2)
    base = answer_sums(tokens(reference), EIGHT, None)

    def found(beta: float) -> torch.Tensor:
        if algorithm == "rloo":
            return reinforced(reference, beta)
        return proximal(reference, beta, scaled=algorithm != "ppo")

    middle, greedy = found(0.4), found(0.02)
    assert distance(middle, (base + REWARD / 0.4).softmax(-1)) < 0.02
    assert distance(middle, base.exp()) > 0.1  # it is another policy than the reference
    assert distance(found(50.0), base.exp()) < 0.02
    assert int(greedy.argmax()) == 2 and float(greedy[2]) > 0.9
