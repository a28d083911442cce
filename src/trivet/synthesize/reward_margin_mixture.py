"""Reward-margin mixture: keep the pairs that every wanted reward agrees with, the clearest first.

The second of the three data mixtures of "Mix Data or Merge Models?" (arXiv 2502.06876). A reward r_o for each
wanted objective o scores both answers of a pair (the paper uses the multi-objective reward model ArmoRM), and
with the margin m_o = r_o(x, y_chosen) − r_o(x, y_rejected)

    keep ⇔ m_o ≥ τ_o for every wanted objective o.

Then the dimensions are brought into proportion again (by default to equal numbers). Where more pairs of a
dimension are left than its part of the mixture, those of largest mean margin over the objectives are taken,
so give rewards on comparable scales; equal means are settled by a draw.

Margins come with the rows (``scores``) or from judges that are named by objective. A pair without a margin
on a wanted objective is dropped and counted as unscored. τ of the paper is not verified: the default 0 drops
exactly the pairs that a reward reverses. A threshold says as much as its judge is good: the datasheet names
each judge's measured quality, and how many of the prompts the judge was fitted on.

Cost: two verdicts a pair for each judge, none where the scores come with the rows.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import Annotated

from pydantic import Field

from trivet.catalogue import method
from trivet.errors import ConfigError
from trivet.synthesize._mixture import (
    BELOW_MARGIN,
    Mixture,
    ProportionConfig,
    Sets,
    by_dimension,
    clean,
    draw,
    finish,
    in_proportion,
)
from trivet.synthesize._pairs import Pair
from trivet.synthesize._rewards import JudgeSpecs, Objectives, drop_unscored, margin_summary, rewards_of

VERSION = 1

Threshold = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class Config(ProportionConfig):
    """Which rewards, how large a margin, and the proportions."""

    judges: JudgeSpecs = Field(
        default_factory=dict, description="by objective, the judge that scores every pair on it"
    )
    objectives: Objectives = Field(
        (), description="those that must agree; empty: all that a judge or a row scores"
    )
    margin: Threshold | dict[str, Threshold] = Field(
        0.0, description="τ, the smallest margin, in the unit of the scores: one number, or one by objective"
    )


@method(paper="2502.06876", version=VERSION, takes=("DataSet",), gives=("DataSet",))
def mix(config: Config, sets: Sets) -> Mixture:
    """Score, select, rebalance.

    Raises:
        DataError: a row breaks the format, or a dimension keeps fewer pairs than its part of ``total``.
        ConfigError: nothing scores an objective, or a key names an unknown objective or dimension.
        JudgeError, ModelError: a judge or its model cannot be loaded.
    """
    pairs, ledger = clean(sets, config.seed)
    rewards = rewards_of(pairs, config.judges, config.objectives)
    thresholds = thresholds_of(config.margin, rewards.objectives)
    scored = drop_unscored(pairs, rewards, ledger)
    agreed = [pair for pair in scored if agrees(rewards.margins[pair.identity], thresholds)]
    taken = {pair.identity for pair in agreed}
    ledger.drop(BELOW_MARGIN, (pair for pair in scored if pair.identity not in taken))
    means = {pair.identity: fmean(rewards.margins[pair.identity].values()) for pair in agreed}

    def rank(pair: Pair) -> tuple[float, str]:
        return -means[pair.identity], draw(config.seed, "margin", pair)

    ranked = {d: sorted(members, key=rank) for d, members in by_dimension(agreed).items()}
    kept = in_proportion(ranked, config, ledger)
    measures = {
        "judges": rewards.judges,
        "margins_before": margin_summary(scored, rewards),
        "margins_after": margin_summary(sorted(kept, key=lambda pair: pair.identity), rewards),
    }
    name = "synthesize/reward_margin_mixture"
    return finish(kept, ledger, config, method=name, version=VERSION, measures=measures)


def agrees(margins: Mapping[str, float], thresholds: Mapping[str, float]) -> bool:
    """Whether the margin reaches its threshold on every objective."""
    return all(margins[objective] >= threshold for objective, threshold in thresholds.items())


def thresholds_of(margin: float | Mapping[str, float], objectives: tuple[str, ...]) -> dict[str, float]:
    """The threshold of each objective.

    Raises:
        ConfigError: ``margin`` is by objective, and its keys are not the objectives.
    """
    if not isinstance(margin, Mapping):
        return dict.fromkeys(objectives, margin)
    if set(margin) != set(objectives):
        raise ConfigError(
            f"margins for {', '.join(sorted(margin)) or 'nothing'}, "
            f"and the objectives are {', '.join(objectives)}",
            where="margin",
            hint="give one number, or one for each objective",
        )
    return {objective: margin[objective] for objective in objectives}
