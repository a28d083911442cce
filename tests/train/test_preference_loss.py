"""The numbered checks of the card of LD-DPO (24) that need no model, on tensors."""

import math

import pytest
import torch

from trivet.train.preference_loss import answer_sums, length_weights, pair_logits, pair_losses

LENGTHS = [15, 3, 3, 3, 6, 16]  # chosen, rejected, chosen, …
OWNERS = torch.repeat_interleave(torch.arange(6), torch.tensor(LENGTHS))


@pytest.fixture
def values() -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(0)
    count = len(OWNERS)
    return tuple(-3 * torch.rand(count, generator=numbers, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def logits(
    policy: torch.Tensor, reference: torch.Tensor, alpha: float, owners: torch.Tensor = OWNERS
) -> torch.Tensor:
    weights = length_weights(owners, alpha).double()
    return pair_logits(0.1 * answer_sums(policy - reference, owners, weights), None)


def test_weights_by_hand() -> None:
    owners = torch.tensor([0, 0, 0, 1, 2, 3, 3])
    assert length_weights(owners, 0.25).tolist() == [1, 0.25, 0.25, 1, 1, 1, 0.25]


def test_alpha_1_is_dpo(values: tuple[torch.Tensor, torch.Tensor]) -> None:
    policy, reference = values
    plain = pair_logits(0.1 * answer_sums(policy - reference, OWNERS, None), None)
    torch.testing.assert_close(logits(policy, reference, 1.0), plain)


def test_equal_lengths_make_alpha_irrelevant(values: tuple[torch.Tensor, torch.Tensor]) -> None:
    policy, reference = values
    for alpha in (0.0, 0.3, 1.0):
        assert logits(policy, reference, alpha)[1] == logits(policy, reference, 1.0)[1]


@pytest.mark.parametrize("alpha", [0.0, 0.37, 1.0])
def test_policy_equal_to_reference_gives_ln_2(
    values: tuple[torch.Tensor, torch.Tensor], alpha: float
) -> None:
    policy, _ = values
    losses = pair_losses(logits(policy, policy, alpha), "sigmoid")
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(2)))
    # the variant that weights the policy alone does not give ln 2 where lengths differ
    weights = length_weights(OWNERS, alpha).double()
    one_sided = answer_sums(policy, OWNERS, weights) - answer_sums(policy, OWNERS, None)
    moved = pair_losses(pair_logits(0.1 * one_sided, None), "sigmoid")
    assert (moved - math.log(2)).abs().max() > 1e-3 or alpha == 1


def test_alpha_0_has_no_gradient_in_the_tail(values: tuple[torch.Tensor, torch.Tensor]) -> None:
    policy, reference = values
    policy.requires_grad_()
    pair_losses(logits(policy, reference, 0.0), "sigmoid").sum().backward()
    tail = length_weights(OWNERS, 0.0) == 0
    assert tail.any() and (policy.grad[tail] == 0).all() and (policy.grad[~tail] != 0).all()


def test_gradient_of_the_tail_is_alpha_times_that_of_the_head(
    values: tuple[torch.Tensor, torch.Tensor],
) -> None:
    policy, _ = values
    fixed = policy.clone()
    policy.requires_grad_()
    pair_losses(logits(policy, fixed, 0.3), "sigmoid").sum().backward()
    size = policy.grad.abs()
    torch.testing.assert_close(size / size.max(), length_weights(OWNERS, 0.3).double())


def test_logit_is_affine_in_alpha(values: tuple[torch.Tensor, torch.Tensor]) -> None:
    low, middle, high = (logits(*values, alpha) for alpha in (0.0, 0.5, 1.0))
    torch.testing.assert_close(middle, (low + high) / 2)


def test_partial_derivatives_in_probability_space() -> None:
    """|∂L/∂X1| / |∂L/∂X2| = X2 / X1 (card 24, the paper's argument for length sensitivity)."""
    chosen, rejected = (
        torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.02, 0.4906)
    )
    logit = 0.1 * (chosen.log() - rejected.log())
    first, second = torch.autograd.grad(pair_losses(logit[None], "sigmoid").sum(), [chosen, rejected])
    assert float(first.abs() / second.abs()) == pytest.approx(0.4906 / 0.02, rel=1e-9)


def test_exchanging_the_answers_flips_the_sign(values: tuple[torch.Tensor, torch.Tensor]) -> None:
    policy, reference = values
    order = torch.cat([torch.nonzero(owner == OWNERS)[:, 0] for owner in (1, 0, 3, 2, 5, 4)])
    swapped = torch.repeat_interleave(
        torch.arange(6), torch.tensor([LENGTHS[owner] for owner in (1, 0, 3, 2, 5, 4)])
    )
    found = logits(policy[order], reference[order], 0.3, swapped)
    torch.testing.assert_close(found, -logits(policy, reference, 0.3), rtol=0, atol=1e-14)


def test_hinge_and_margins() -> None:
    rewards = torch.tensor([1.0, 0.25, -2.0, 1.0])
    margins = torch.tensor([0.5, 0.0, 0.0, 1.0])
    assert pair_logits(rewards, margins).tolist() == [0.25, -2.0]
    assert pair_losses(torch.tensor([0.25, 3.0]), "hinge").tolist() == [0.75, 0.0]
    assert float(pair_losses(torch.tensor([0.0]), "sigmoid")) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="ipo"):
        pair_losses(rewards, "ipo")  # type: ignore[arg-type]
