"""The one-shot safety test of HC-RLHF, part B: a bound of the mean cost on prompts that nothing saw before.

Limit and δ are written to a ledger (``trivet.data.safety_ledger``) before any prompt is read, and the
candidate before any is answered. Prompts of an earlier test are refused, unless that test and this one share
δ: ``split`` tests may look at the same prompts, each with δ / split. The ledger is that of ``trivet gate``,
so that neither looks at what the other has used.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trivet._files import canonical_json
from trivet.data.prompts import prompt_digest
from trivet.data.safety_ledger import Ledger, Look, ledger_lock, prompts_digest
from trivet.errors import TrainingError
from trivet.statistics.required_prompts import can_pass, required_prompts
from trivet.statistics.upper_bounds import upper_bound
from trivet.train.prompts import Prompt

BoundName = Literal["clopper_pearson", "betting", "empirical_bernstein", "hoeffding", "student"]


@dataclass(frozen=True)
class Decision:
    """``bound`` is ``None`` where there is none, and ``reason`` says why."""

    passed: bool
    bound: float | None
    n: int
    mean: float | None
    deviation: float | None
    reason: str | None = None


def decide(
    costs: Sequence[float], *, bound: BoundName, limit: float, delta: float, missing: int = 0
) -> Decision:
    """Whether the bound of the mean is within the limit.

    Args:
        costs: in the order of the prompts; in [0, 1] for every bound but Student's.
        missing: answers without any cost, which leave nothing to bound.
    """
    n = len(costs)
    mean = float(np.mean(costs)) if n else None
    deviation = float(np.std(costs, ddof=1)) if n > 1 else None
    reason = None
    if missing or not n:
        reason = f"{missing} answers could not be scored, and a cost without a range has no worst value"
    elif bound == "student" and (n < 2 or min(costs) == max(costs)):
        reason = "all costs are equal, and Student's bound says nothing without spread"
    if reason is not None:
        return Decision(False, None, n, mean, deviation, reason)
    found = float(upper_bound(bound, costs, delta=delta))
    return Decision(found <= limit, found, n, mean, deviation)


@dataclass(frozen=True)
class SafetyPlan:
    """What is fixed before the prompts are read. ``delta`` is divided by ``split``; ``run`` is a digest of
    all that the run consists of."""

    bound: BoundName
    limit: float
    delta: float
    split: int
    cost: str
    judge: tuple[str, str]
    run: str
    seed: int

    @property
    def test_delta(self) -> float:
        """δ of one test."""
        return self.delta / self.split

    def declaration(self, candidate: str | None = None) -> dict[str, Any]:
        """What the ledger holds of it; ``candidate`` is a digest of the weights, once they are chosen."""
        known = {
            "limit": self.limit,
            "delta": self.delta,
            "split": self.split,
            "bound": self.bound,
            "cost": self.cost,
            "judge": list(self.judge),
            "system": f"train/high_confidence_rlhf {self.run[:16]}",
            "seed": self.seed,
        }
        return known if candidate is None else known | {"candidate": candidate}

    def check_possible(self, prompts: int, where: str) -> None:
        """Raise ``TrainingError`` where no outcome on so many prompts can pass; nothing was looked at."""
        if can_pass(self.bound, self.limit, prompts, delta=self.test_delta):
            return
        needed = required_prompts(self.bound, self.limit, delta=self.test_delta).no_harm
        raise TrainingError(
            f"no solution can be found: whatever the costs on {prompts} safety prompts, their bound at delta "
            f"{self.test_delta:g} is above the limit {self.limit:g}",
            where=where,
            hint=f"{needed} prompts are the fewest that can pass, with no cost seen at all"
            if needed is not None
            else "no number of prompts is enough for this limit; raise it",
        )


class SafetyLedger:
    """The ledger of a plan's prompts."""

    def __init__(self, folder: Path, plan: SafetyPlan) -> None:
        self.folder, self.plan = folder, plan

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / "ledger.jsonl"

    def declare(self) -> None:
        """Write down limit and δ. Call it before the prompts are read."""
        with ledger_lock(self.folder):
            Ledger(self.folder).declare(self.plan.declaration())

    def earlier_result(self, prompts: Sequence[Prompt]) -> Mapping[str, Any] | None:
        """The result of this very run's test, where one came to its end. Asked before training, it finds out
        whether the test will be refused.

        Raises:
            StudyError: an earlier test, not of this very run, looked at a prompt and leaves no share of δ.
        """
        with ledger_lock(self.folder):
            ledger = Ledger(self.folder)
            own, asked = canonical_json(self.plan.declaration()), prompts_digest(digests(prompts))
            found = []
            for look in ledger.looks:
                declared = {name: value for name, value in look.declared.items() if name != "candidate"}
                if look.prompts == asked and canonical_json(declared) == own:
                    found.append(look.result)
            if not found:
                ledger.admit(ledger.declare(self.plan.declaration()), digests(prompts))
            return next((result for result in reversed(found) if result is not None), None)

    def test(
        self, candidate: str, prompts: Sequence[Prompt], look: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """The result of ``look``, which answers and scores the prompts; of an earlier call for the same
        candidate, where that came to its end. ``earlier_tests`` in it counts the other tests in the ledger.

        Raises:
            StudyError: the prompts were used before.
        """
        with ledger_lock(self.folder):
            ledger = Ledger(self.folder)
            declaration = ledger.declare(self.plan.declaration(candidate))
            known: Look | None = ledger.admit(declaration, digests(prompts))
            if known is not None and known.result is not None:
                return known.result
            known = known or ledger.begin(declaration, digests(prompts))
            result = {**look(), "earlier_tests": len(ledger.looks) - 1}
            ledger.finish(known, result)
            return result


def digests(prompts: Sequence[Prompt]) -> list[str]:
    """The prompts' identities in a ledger: of their text, of all messages but the system's."""
    return [
        prompt_digest("\n".join(str(part["content"]) for part in one.chat if part["role"] != "system"))
        for one in prompts
    ]


def quantiles(costs: Sequence[float], limit: float) -> dict[str, Any]:
    """Where the limit lies among the costs of the model before training, one answer to each prompt."""
    if not costs:
        return {"answers": 0}
    tenth, half, most = (float(one) for one in np.quantile(costs, (0.1, 0.5, 0.9)))
    return {
        "answers": len(costs),
        "mean": math.fsum(costs) / len(costs),
        "quantile_10": tenth,
        "median": half,
        "quantile_90": most,
        "share_within_limit": float(np.mean(np.asarray(costs) <= limit)),
    }
