"""Conflict-aware mixture: take out the pairs that other dimensions would reverse, until few are left.

The third of the three data mixtures of "Mix Data or Merge Models?" (arXiv 2502.06876), in the manner of
"Hummer: Towards Limited Competitive Preference Dataset" (arXiv 2405.11647): limit the competition between
dimensions in the data. With the margin m_b of a pair under the reward of dimension b (score of ``chosen``
minus score of ``rejected``), the alignment-dimension conflict of dimension a with b is

    ADC(a, b) = |{pairs of a with m_b < −tolerance}| / |pairs of a|,        b ≠ a,

and every ADC(a, b) is brought down to ``target``:

- ``drop``: while one is above it, the worst pair of the largest goes: the one that most dimensions reverse,
  then the one of most negative margin m_b. Against one b it takes the fewest drops that suffice,
  ⌈(k − t·n) / (1 − t)⌉ for k conflicts among n pairs and target t.
- ``weight``: all pairs of a that some b reverses get one weight, the largest with
  Σ weights of conflicts with b ≤ t · Σ weights for every b; against one b that is
  w = t (n − k) / ((1 − t) k). The column ``weight`` holds it, and 1 elsewhere; a trainer must read it
  (TRL's ``DPOTrainer`` does not).

**Our reading, unverified**: neither paper's text on this was at hand, only their abstracts. The definition of
ADC above, its thresholds (target 0.1, tolerance 0), worst-first dropping and the weight are Trivet's.

A judge that is right in 72 % of cases reverses pairs by error too: compare ADC(a, b) with the rate at which b
reverses the pairs of its own dimension, which the datasheet shows beside it (``own``; no pair is dropped for
it).

Margins come with the rows (``scores``, by dimension) or from judges named by dimension; a pair without a
margin on another dimension is dropped and counted as unscored. Cost: two verdicts a pair for each judge.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field

from trivet.catalogue import method
from trivet.errors import ConfigError, DataError
from trivet.statistics.proportions import wilson
from trivet.synthesize._mixture import (
    CONFLICT,
    Ledger,
    Mixture,
    SeededConfig,
    Sets,
    by_dimension,
    clean,
    draw,
    finish,
)
from trivet.synthesize._pairs import Pair
from trivet.synthesize._rewards import (
    JudgeSpecs,
    Objectives,
    Rewards,
    drop_unscored,
    margin_summary,
    rewards_of,
)

VERSION = 1


class Config(SeededConfig):
    """Whose rewards count, how much conflict may stay, and what becomes of the rest."""

    judges: JudgeSpecs = Field(
        default_factory=dict, description="by dimension, the judge that scores every pair on it"
    )
    objectives: Objectives = Field(
        (), description="dimensions whose reward is asked; empty: all that a judge or a row scores"
    )
    target: float = Field(
        0.1, ge=0, lt=1, description="largest ADC(a, b) in the mixture, a fraction; our reading, unverified"
    )
    tolerance: float = Field(
        0.0, ge=0, le=1e6, description="a margin reverses below minus this, in the unit of the scores"
    )
    action: Literal["drop", "weight"] = Field(
        "drop", description="drop conflicting pairs, or weigh them less"
    )


@method(paper="2502.06876", version=VERSION, takes=("DataSet",), gives=("DataSet",))
def mix(config: Config, sets: Sets) -> Mixture:
    """Score, find the conflicts, and drop or down-weight them dimension by dimension.

    Raises:
        DataError: a row breaks the format, or a dimension would lose all its pairs.
        ConfigError: nothing scores a dimension, or no other dimension is scored at all.
        JudgeError, ModelError: a judge or its model cannot be loaded.
    """
    pairs, ledger = clean(sets, config.seed)
    rewards = rewards_of(pairs, config.judges, config.objectives)
    _refuse_without_others(ledger, rewards)
    scored = drop_unscored(pairs, rewards, ledger, own=False)
    weights: dict[str, float] = {}
    for members in by_dimension(scored).values():
        weights |= _settled(members, rewards, config)
    kept = [pair for pair in scored if weights[pair.identity] > 0]
    ledger.drop(CONFLICT, (pair for pair in scored if weights[pair.identity] == 0))
    _refuse_emptied(kept, ledger)
    measures = {
        "judges": rewards.judges,
        "conflict_before": conflict_matrix(scored, rewards, config.tolerance),
        "conflict_after": conflict_matrix(kept, rewards, config.tolerance, weights),
        "margins_after": margin_summary(kept, rewards),
    }
    return finish(
        kept,
        ledger,
        config,
        method="synthesize/conflict_aware_mixture",
        version=VERSION,
        measures=measures,
        weights=weights if config.action == "weight" else None,
    )


def conflicts(pair: Pair, rewards: Rewards, tolerance: float) -> dict[str, float]:
    """The other dimensions that reverse ``pair``, with their margins."""
    margins = rewards.margins[pair.identity]
    return {b: m for b, m in margins.items() if b != pair.dimension and m < -tolerance}


def _settled(pairs: Sequence[Pair], rewards: Rewards, config: Config) -> dict[str, float]:
    """The weight of each pair of one dimension by its identity; 0 drops it."""
    drawn = sorted(pairs, key=lambda pair: draw(config.seed, "conflict", pair))
    found = [conflicts(pair, rewards, config.tolerance) for pair in drawn]
    if config.action == "drop":
        dropped = worst_until(found, config.target)
        return {pair.identity: float(index not in dropped) for index, pair in enumerate(drawn)}
    weight = conflict_weight(found, config.target)
    return {pair.identity: weight if one else 1.0 for pair, one in zip(drawn, found, strict=True)}


def worst_until(found: Sequence[Mapping[str, float]], target: float) -> set[int]:
    """Which pairs of a dimension to drop, by index, for every conflict rate to be ``target`` at most.

    Args:
        found: for each pair, the margin of each dimension that reverses it. Between equally bad pairs the one
            that stands first is dropped first.
        target: in [0, 1).
    """
    limit = Fraction(repr(target))
    queues = {
        b: sorted(
            (index for index, one in enumerate(found) if b in one),
            key=lambda index: (-len(found[index]), found[index][b], index),
        )
        for b in sorted({b for one in found for b in one})
    }
    counts = {b: len(queue) for b, queue in queues.items()}
    waiting = {b: iter(queue) for b, queue in queues.items()}  # each passes its queue once
    left, dropped = len(found), set[int]()
    while counts:
        largest = max(counts, key=lambda b: counts[b])  # the first in alphabetical order among equals
        if counts[largest] <= limit * left:
            break
        worst = next(index for index in waiting[largest] if index not in dropped)
        dropped.add(worst)
        left -= 1
        for b in found[worst]:
            counts[b] -= 1
    return dropped


def conflict_weight(found: Sequence[Mapping[str, float]], target: float) -> float:
    """One weight in [0, 1] for all conflicting pairs of a dimension: the largest that meets ``target``.

    With K conflicting pairs among n, of which k_b conflict with b, the weighted rate is
    w k_b / (w K + n − K); it is at most t where w (k_b − t K) ≤ t (n − K).
    """
    limit, conflicting = Fraction(repr(target)), sum(bool(one) for one in found)
    weight = Fraction(1)
    for b in {b for one in found for b in one}:
        excess = sum(b in one for one in found) - limit * conflicting
        if excess > 0:
            weight = min(weight, limit * (len(found) - conflicting) / excess)
    return float(weight)


def conflict_matrix(
    pairs: Sequence[Pair],
    rewards: Rewards,
    tolerance: float,
    weights: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """ADC(a, b) for each dimension a of the pairs and each objective b, as a table.

    Rows with ``own`` tell how often the reward of a reverses the pairs of a itself. Without ``weights`` (by
    identity, above 0) ``low`` and ``high`` are Wilson's 95 % interval of the rate; with them the rate is that
    of a selection, and has none.
    """
    table = []
    for dimension, members in by_dimension(pairs).items():
        for objective in rewards.objectives:
            scored = [pair.identity for pair in members if objective in rewards.margins[pair.identity]]
            against = [pair for pair in scored if rewards.margins[pair][objective] < -tolerance]
            row: dict[str, Any] = {
                "dimension": dimension,
                "reward of": objective,
                "own": dimension == objective,
                "pairs": len(scored),
                "reversed": len(against),
            }
            if scored and weights is None:
                interval = wilson(len(against), len(scored))
                row |= {"rate": len(against) / len(scored), "low": interval.low, "high": interval.high}
            elif scored and weights is not None:
                whole = math.fsum(weights[pair] for pair in scored)
                row["rate"] = math.fsum(weights[pair] for pair in against) / whole
            table.append(row)
    return table


def _refuse_without_others(ledger: Ledger, rewards: Rewards) -> None:
    if len(rewards.objectives) == 1 and ledger.dimensions() == list(rewards.objectives):
        raise ConfigError(
            f"conflict is between dimensions, and there is only {rewards.objectives[0]!r}",
            where="judges",
            hint="name a judge for another dimension, or give pairs of another one",
        )


def _refuse_emptied(kept: Sequence[Pair], ledger: Ledger) -> None:
    left = by_dimension(kept)
    for dimension in ledger.dimensions():
        if dimension not in left:
            raise DataError(
                f"no pair of the dimension {dimension!r} is left ({ledger.why(dimension)})",
                hint="raise `target` or `tolerance`, or leave the dimension out",
            )
