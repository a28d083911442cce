"""λ and the buffer of recent costs that it is driven by: the state of HC-RLHF's dual problem."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trivet.train.safety_constraint import augmented_costs, dual_step, kappa, predicted_bound


@dataclass(frozen=True)
class ConstraintSettings:
    """``limit`` τ of the mean cost; ``delta`` of the test and ``test_prompts`` n_s; ``c1``, ``c2`` inflation;
    ``clip`` of reward and KL; ``initial``, ``learning_rate``, ``largest`` of λ, which stays as it is in the
    first ``delay`` steps; ``buffer``: how many recent costs are kept."""

    limit: float
    delta: float
    test_prompts: int
    c1: float = 1.0
    c2: float = 1.0
    clip: float = 50.0
    initial: float = 1.0
    learning_rate: float = 0.1
    largest: float = 1e6
    delay: int = 0
    buffer: int = 128

    def kappa(self, candidate: int) -> float:
        """κ for ``candidate`` costs."""
        return kappa(candidate, self.test_prompts, delta=self.delta, c1=self.c1, c2=self.c2)


class Pressure(NamedTuple):
    """What the costs of a step came to: mean and deviation over the buffer, κ, the predicted bound and λ."""

    mean: float
    deviation: float
    kappa: float
    bound: float
    multiplier: float

    def penalties(self, costs: Sequence[float | None]) -> list[float]:
        """λ C_aug of each cost; 0 for an answer without one, which takes no part in a step."""
        known = [0.0 if cost is None else cost for cost in costs]
        priced = self.multiplier * augmented_costs(known, self.mean, self.deviation, self.kappa)
        return [0.0 if cost is None else float(one) for cost, one in zip(costs, priced, strict=True)]


class CostMultiplier:
    """λ and the last costs of the policy's answers; both go into checkpoints."""

    def __init__(self, settings: ConstraintSettings) -> None:
        self.settings = settings
        self.log_multiplier = math.log(settings.initial)
        self.costs: list[float] = []

    def observe(self, costs: Sequence[float], step: int) -> Pressure | None:
        """Take the costs of a step (from 0) in, and move λ; ``None`` before there are two costs at all."""
        self.costs = [*self.costs, *costs][-self.settings.buffer :]
        if len(self.costs) < 2:
            return None
        mean, deviation = float(np.mean(self.costs)), float(np.std(self.costs, ddof=1))
        factor = self.settings.kappa(len(self.costs))
        bound = float(predicted_bound(mean, deviation, factor))
        if step >= self.settings.delay:
            self.log_multiplier = float(
                dual_step(
                    self.log_multiplier,
                    bound,
                    self.settings.limit,
                    learning_rate=self.settings.learning_rate,
                    largest=self.settings.largest,
                )
            )
        return Pressure(mean, deviation, factor, bound, math.exp(self.log_multiplier))

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as JSON values; floats come back bit by bit."""
        return {"log_multiplier": self.log_multiplier, "costs": list(self.costs)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be what ``state`` was taken of."""
        self.log_multiplier, self.costs = float(state["log_multiplier"]), [*map(float, state["costs"])]
