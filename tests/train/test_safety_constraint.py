"""HC-RLHF's mathematics (card 08, checks 1 to 5), and the whole algorithm by simulation (9 to 11).

The calibration of the bounds themselves (checks 6, 7 and 8) is tested in
``tests/statistics/test_upper_bounds.py``.
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from trivet.errors import DataError
from trivet.statistics.upper_bounds import upper_bound
from trivet.train.cost_multiplier import ConstraintSettings, CostMultiplier
from trivet.train.policy_candidates import Candidate, best
from trivet.train.rloo import leave_one_out_advantages, loss
from trivet.train.safety_constraint import (
    SMALLEST_DEVIATION,
    augmented_costs,
    constrained_returns,
    dual_step,
    kappa,
    predicted_bound,
)
from trivet.train.safety_prompts import ledger_folder
from trivet.train.safety_test import decide

Floats = npt.NDArray[np.float64]


def test_the_gradient_of_the_bound_is_that_of_the_mean_augmented_cost() -> None:
    """Check 1: on a softmax over answers with exact expectations, in float64."""
    numbers = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(9, generator=numbers, dtype=torch.float64, requires_grad=True)
        costs = 4 * torch.randn(9, generator=numbers, dtype=torch.float64) - 2
        policy, factor = logits.softmax(-1), 0.7
        mean = (policy * costs).sum()
        deviation = ((policy * costs**2).sum() - mean**2).sqrt()
        (expected,) = torch.autograd.grad(mean + factor * deviation, logits, retain_graph=True)
        augmented = augmented_costs(costs.numpy(), mean.item(), deviation.item(), factor)
        (found,) = torch.autograd.grad((policy * torch.from_numpy(augmented)).sum(), logits)
        assert (found - expected).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("c1", "c2", "test", "candidate", "expected"),
    [(4, 2, 100, 256, 0.579), (4, 2, 100, 32, 1.184), (1, 1, 1000, 256, 0.121), (1, 1, 1000, 32, 0.272)],
)
def test_kappa(c1: float, c2: float, test: int, candidate: int, expected: float) -> None:
    """Check 2: the card's values at delta 0.1."""
    assert kappa(candidate, test, delta=0.1, c1=c1, c2=c2) == pytest.approx(expected, abs=1e-3)


def test_without_inflation_it_is_the_plain_constraint() -> None:
    """Check 3: C₁ = C₂ = 0 is Safe-RLHF's E C ≤ τ, exactly; and so it is where costs are all alike."""
    costs = np.random.default_rng(0).normal(size=20)
    none = kappa(20, 100, delta=0.1, c1=0, c2=0)
    assert none == 0 and (augmented_costs(costs, 0.3, 0.7, none) == costs).all()
    assert float(predicted_bound(0.3, 0.7, none)) == 0.3
    assert (augmented_costs(costs, 0.3, SMALLEST_DEVIATION / 2, 0.5) == costs).all()
    with pytest.raises(ValueError, match="two costs"):
        kappa(1, 100, delta=0.1)
    with pytest.raises(ValueError, match="delta"):
        kappa(10, 100, delta=0.6)


def test_the_gradient_is_that_of_trls_ratio_form_for_the_same_return() -> None:
    """Check 4: TRL takes the clipped reward less the penalty as its reward, and subtracts the KL itself."""
    numbers = torch.Generator().manual_seed(1)
    policy = torch.randn(12, generator=numbers, dtype=torch.float64, requires_grad=True)
    reference, rewards, penalties = torch.randn(3, 12, generator=numbers, dtype=torch.float64)
    beta, k = 0.3, 4
    given = constrained_returns(rewards, penalties, policy, reference, beta=beta, clip=50.0)
    loss(policy, leave_one_out_advantages(given, k)).backward()
    found, policy.grad = policy.grad, None
    total = (rewards - penalties) - beta * (policy - reference).detach()  # two rewards of weights 1 and −λ
    grouped = total.view(-1, k)
    weights = total - ((grouped.sum(1, keepdim=True) - grouped) / (k - 1)).expand(-1, k).reshape(-1)
    ratio = torch.exp(policy - policy.detach())
    (-torch.min(ratio * weights, ratio.clamp(0.8, 1.2) * weights)).mean().backward()
    assert found is not None and policy.grad is not None
    assert (found - policy.grad).abs().max() < 1e-12


def test_reward_and_kl_are_held_within_the_clip_and_the_penalty_is_not() -> None:
    rewards, penalties = torch.tensor([80.0, -3.0, float("nan")]), torch.tensor([70.0, 500.0, 1.0])
    found = constrained_returns(
        rewards, penalties, torch.tensor([0.0, 2.0, 0.0]), torch.zeros(3), beta=0.5, clip=50.0
    )
    assert found[:2].tolist() == [-20.0, -504.0] and found[2].isnan()


@pytest.mark.parametrize(("bound", "direction"), [(0.7, 1), (0.1, -1), (0.4, 0)])
def test_the_multiplier_follows_the_bound(bound: float, direction: int) -> None:
    """Check 5: it grows above the limit, shrinks below, and each step is λ exp(η λ (U − τ)); SGD on log λ."""
    for start in (0.2, 1.0, 3.0):
        log = float(dual_step(math.log(start), bound, 0.4, learning_rate=0.1, largest=1e6))
        assert np.sign(round(math.exp(log) - start, 12)) == direction
        assert math.exp(log) == pytest.approx(start * math.exp(0.1 * start * (bound - 0.4)), abs=1e-6)
        weight = torch.tensor(math.log(start), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        (-(bound - 0.4) * weight.exp()).backward()
        optimizer.step()
        assert log == pytest.approx(weight.item(), abs=1e-12)
    assert math.exp(float(dual_step(3.0, 50.0, 0.0, learning_rate=10.0, largest=5.0))) == pytest.approx(5.0)


def test_the_buffer_holds_recent_costs_and_comes_back_bit_by_bit() -> None:
    settings = ConstraintSettings(limit=0.3, delta=0.1, test_prompts=50, buffer=5, delay=2)
    one, two = CostMultiplier(settings), CostMultiplier(settings)
    assert one.observe([0.25], 0) is None and one.log_multiplier == 0.0
    first = one.observe([0.1, 0.7, 1 / 3], 1)
    assert first is not None and first.multiplier == 1.0  # the delay
    assert first.kappa == kappa(4, 50, delta=0.1)  # one n_c: what is in the buffer
    seen = one.observe([0.9, 0.8], 2)
    assert seen is not None and one.costs == [0.1, 0.7, 1 / 3, 0.9, 0.8]
    assert seen.mean == pytest.approx(np.mean(one.costs)) and seen.bound > 0.3 and seen.multiplier > 1
    priced = seen.penalties([0.4, None])
    assert priced[1] == 0.0
    expected = seen.multiplier * augmented_costs(0.4, seen.mean, seen.deviation, seen.kappa)
    assert priced[0] == pytest.approx(float(expected))
    import json

    two.restore(json.loads(json.dumps(one.state())))
    assert two.observe([0.2], 3) == one.observe([0.2], 3) and two.state() == one.state()


def candidate(step: int, objective: float, bound: float) -> Candidate:
    return Candidate(step, objective, objective, 9, 0.0, bound, 0.1, 9, bound)


def test_the_candidate_is_the_best_of_those_that_are_predicted_to_pass() -> None:
    some = [candidate(1, 2.0, 0.5), candidate(2, 1.0, 0.2), candidate(3, 1.0, 0.3), candidate(4, 0.5, 0.1)]
    assert best(some, 0.3).step == 3 and best(some, 0.15).step == 4 and best(some, 0.05).step == 4
    assert best([candidate(1, 1.0, math.inf), candidate(2, 0.0, math.inf)], 0.5).step == 2


def test_decisions_without_a_bound_say_why() -> None:
    equal = decide([0.0, 0.0], bound="student", limit=0.1, delta=0.1)
    assert not equal.passed and equal.bound is None and "without spread" in str(equal.reason)
    missing = decide([0.1, 0.0], bound="student", limit=9.0, delta=0.1, missing=1)
    assert not missing.passed and "1 answers could not be scored" in str(missing.reason)


def test_a_ledger_lies_beside_its_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "held.jsonl").touch()
    (tmp_path / "set").mkdir()
    place = tmp_path.resolve()
    assert ledger_folder("held.jsonl", tmp_path) == place / "held.jsonl.gate"
    assert ledger_folder("hh_single_turn/test:set", tmp_path) == place / "set.gate"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/link.jsonl").symlink_to(tmp_path / "held.jsonl")
    assert ledger_folder("link.jsonl", tmp_path / "elsewhere") == place / "held.jsonl.gate"
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name: str(tmp_path / name))
    ledgers = tmp_path / "trivet" / "ledgers"
    for source in ("owner/name:test", "owner/name"):
        for base in (tmp_path, tmp_path / "elsewhere"):  # not beside the settings, which move
            assert ledger_folder(source, base) == ledgers / "owner--name.gate"
    assert ledger_folder("hh-single-turn/test", tmp_path) == ledgers / "hh_single_turn.gate"
    with pytest.raises(DataError, match="no such file"):
        ledger_folder("hold.jsonl", tmp_path)


class Simulation:
    """Many runs at once of the whole algorithm on a bandit whose costs are known exactly.

    The policy is a softmax over arms. Arm a answers prompt x with a cost that is uniform within ±0.2 of its
    mean. Each run has its own fixed training prompts, which steps draw from, as an epoch of real training
    does; what is rewarding is costly, so that λ drives the policy to the limit.
    """

    def __init__(
        self, means: Floats, *, runs: int, limit: float, delta: float, prompts: int, test: int
    ) -> None:
        self.means, self.runs, self.limit, self.delta, self.test = means, runs, limit, delta, test
        self.numbers = np.random.default_rng(8)
        self.table = self.costs_of(np.broadcast_to(np.arange(means.size), (runs, prompts, means.size)))

    def costs_of(self, arms: npt.NDArray[np.int64]) -> Floats:
        return self.means[arms] + self.numbers.uniform(-0.2, 0.2, arms.shape)

    def draw(self, policy: Floats, count: int) -> npt.NDArray[np.int64]:
        places = self.numbers.random((self.runs, count, 1))
        return np.asarray((places > policy.cumsum(1)[:, None, :-1]).sum(-1))

    def train(
        self,
        rewards: Floats,
        *,
        steps: int,
        c1: float,
        c2: float,
        batch: int = 16,
        rate: float = 1.0,
        k: int = 4,
    ) -> Floats:
        """The candidates: probabilities [runs, arms]."""
        logits, log = np.zeros((self.runs, self.means.size)), np.zeros(self.runs)
        buffer = np.empty((self.runs, 0))
        rows = np.arange(self.runs)[:, None]
        for _ in range(steps):
            policy = softmax(logits)
            arms = self.draw(policy, batch)
            prompts = self.numbers.integers(self.table.shape[1], size=(self.runs, batch // k)).repeat(k, 1)
            costs = self.table[rows, prompts, arms]
            buffer = np.concatenate([buffer, costs], axis=1)[:, -64:]
            mean, deviation = buffer.mean(1), buffer.std(1, ddof=1)
            factor = kappa(buffer.shape[1], self.test, delta=self.delta, c1=c1, c2=c2)
            bound = predicted_bound(mean, deviation, factor)
            log = dual_step(log, bound, self.limit, learning_rate=0.3, largest=1e3)
            multiplier = np.exp(log)[:, None]
            augmented = augmented_costs(costs, mean[:, None], deviation[:, None], factor)
            given = constrained_returns(
                torch.from_numpy(rewards[arms]),
                torch.from_numpy(multiplier * augmented),
                torch.from_numpy(np.log(policy[rows, arms])),
                torch.full((self.runs, batch), -math.log(self.means.size), dtype=torch.float64),
                beta=0.01,
                clip=50.0,
            )
            advantages = leave_one_out_advantages(given.flatten(), k).numpy().reshape(self.runs, batch)
            ascent = -policy * advantages.sum(1, keepdims=True)
            np.add.at(ascent, (rows, arms), advantages)
            logits = logits + rate / batch * ascent / (1 + multiplier)
        return softmax(logits)

    def passed(self, policy: Floats, bound: str, *, training_data: bool = False) -> npt.NDArray[np.bool_]:
        arms = self.draw(policy, self.test)
        costs = self.costs_of(arms)
        if training_data:
            prompts = np.arange(self.test) % self.table.shape[1]
            costs = self.table[np.arange(self.runs)[:, None], prompts[None], arms]
        found = upper_bound(bound, costs, delta=self.delta, low=-0.2, high=1.2)
        return np.asarray(found <= self.limit)

    def unsafe(self, policy: Floats) -> npt.NDArray[np.bool_]:
        return np.asarray(policy @ self.means > self.limit)


def softmax(logits: Floats) -> Floats:
    values = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(values / values.sum(1, keepdims=True))


RUNS, DELTA = 1000, 0.1
SLACK = 3 * math.sqrt(DELTA * (1 - DELTA) / RUNS)


def test_unsafe_policies_are_returned_with_probability_delta_at_most() -> None:
    """Check 9: 1,000 runs; for every bound the rate of returned and unsafe policies is within delta."""
    means = np.linspace(0.1, 0.9, 6)
    one = Simulation(means, runs=RUNS, limit=0.4, delta=DELTA, prompts=200, test=100)
    returned = {}
    for c in (0.0, 1.0):
        policy = one.train(3 * means, steps=160, c1=c, c2=c)
        unsafe = one.unsafe(policy)
        if not c:  # driven to the limit without pessimism, about half of the candidates are above it
            assert 0.2 < unsafe.mean() < 0.9
        for bound in ("student", "hoeffding", "empirical_bernstein", "betting"):
            passed = one.passed(policy, bound)
            assert (passed & unsafe).mean() <= DELTA + SLACK, (c, bound)
            returned[c, bound] = passed.mean()
    # Pessimism in candidate selection is what makes solutions be found.
    assert returned[1.0, "student"] > 1.5 * returned[0.0, "student"]


def test_a_test_on_training_data_returns_unsafe_policies_far_more_often() -> None:
    """Check 9, falsification: all arms are a little above the limit, and each run learns those that look
    cheap on its training prompts."""
    one = Simulation(np.full(16, 0.402), runs=RUNS, limit=0.4, delta=DELTA, prompts=10, test=10)
    policy = one.train(np.zeros(16), steps=80, c1=1.0, c2=1.0, batch=24, rate=25.0)
    assert one.unsafe(policy).all()
    honest = one.passed(policy, "student").mean()
    reused = one.passed(policy, "student", training_data=True).mean()
    assert honest <= DELTA + SLACK
    assert reused > honest + 0.2


def test_impossible_and_trivial_limits() -> None:
    """Check 10: below the least cost nothing is returned; above the greatest everything is, by Hoeffding."""
    means = np.linspace(0.2, 0.8, 5)
    for limit, rate in ((-0.05, 0.0), (1.05, 1.0)):
        one = Simulation(means, runs=200, limit=limit, delta=DELTA, prompts=50, test=150)
        policy = one.train(means, steps=20, c1=1.0, c2=1.0)
        for bound in ("hoeffding", "student", "betting"):
            assert one.passed(policy, bound).mean() == rate


def test_many_candidates_on_one_test_set_need_a_share_of_delta() -> None:
    """Check 11: the first of ten candidates that passes is unsafe far more often than delta; with delta / 10
    each it is not. That the same prompts are refused a second time is tested with whole runs."""
    numbers, m = np.random.default_rng(11), 10
    costs = numbers.normal(0.4, 0.1, (RUNS, m, 100))  # each candidate is just at the limit
    reused = (upper_bound("student", costs, delta=DELTA) <= 0.4).any(1).mean()
    shared = (upper_bound("student", costs, delta=DELTA / m) <= 0.4).any(1).mean()
    assert reused == pytest.approx(1 - (1 - DELTA) ** m, abs=0.05)
    assert shared <= DELTA + SLACK
