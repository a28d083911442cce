"""Win rates after best-of-n or worst-of-n on held-out prompts, with intervals, at the KL that they cost."""

from collections.abc import Sequence
from typing import Any

from trivet.judges import Judge
from trivet.statistics.interval import Estimated
from trivet.statistics.means import clustered_mean
from trivet.statistics.win_rates import Procedure, win_rate
from trivet.train.rollouts import Rollout, judged

NAMES = {"best_of_n": "best of", "worst_of_n": "worst of"}


def win_rates(
    policy: Sequence[Rollout],
    reference: Sequence[Rollout],
    judge: Judge,
    procedure: Procedure,
    n: int,
    label: str,
) -> dict[str, Any]:
    """Figures by name: the standard win rate and the one after the procedure, each with its interval.

    A prompt counts where at least n answers of each could be scored.

    Args:
        policy, reference: answers to the same prompts in the same order.
        label: says whose scores these are.
    """
    pairs = [
        (_scored(own), _scored(other))
        for own, other in zip(judged(judge, policy), judged(judge, reference), strict=True)
    ]
    kinds: list[tuple[str, Procedure, int]] = [("win rate", "none", 1)]
    if procedure != "none":
        kinds.append((f"win rate, {NAMES[procedure]} {n}", procedure, n))
    found: dict[str, Any] = {}
    for name, kind, count in kinds:
        values = [
            win_rate(own, other, kind, count) for own, other in pairs if min(len(own), len(other)) >= count
        ]
        found |= figures(f"{name}, {label}", values, (0.0, 1.0))
        if len(values) < len(pairs):
            found[f"{name}, {label}: prompts left out"] = len(pairs) - len(values)
    return found


def _scored(scores: Sequence[float | None]) -> list[float]:
    return [value for value in scores if value is not None]


def mean_score(scores: Sequence[float | None]) -> float | None:
    """The mean of those of a prompt's answers that could be scored, or ``None``."""
    known = _scored(scores)
    return sum(known) / len(known) if known else None


def figures(name: str, values: Sequence[float], bounds: tuple[float, float] | None) -> dict[str, Any]:
    """The mean over prompts and its interval, as entries of a model card."""
    if not values:
        return {name: "could not be scored"}
    estimate: Estimated = clustered_mean(values, [str(index) for index in range(len(values))], bounds=bounds)
    found: dict[str, Any] = {name: estimate.value}
    if estimate.interval is not None:
        found[f"{name}, 95 % interval"] = [estimate.interval.low, estimate.interval.high]
    return found
