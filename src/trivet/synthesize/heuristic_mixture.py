"""Heuristic mixture: preference pairs of several dimensions in proportions set by hand.

The first of the three data mixtures that "Mix Data or Merge Models? Balancing the Helpfulness, Honesty, and
Harmlessness of Large Language Model via Model Merging" (arXiv 2502.06876) compares with merging: put the
preference sets of the dimensions together and train once. Of N pairs, dimension d with proportion p_d gives

    n_d = p_d · N, rounded by largest remainder so that Σ_d n_d = N,

drawn without replacement. Within a dimension the sources keep their relative sizes (a stratified draw), and a
larger N contains the pairs of a smaller one as long as the n_d do not fall. The paper's own proportions and
data sets are not verified here: by default all dimensions weigh the same and N is as large as they allow.

It looks at no answer, so pairs that pull against each other stay in; ``reward_margin_mixture`` and
``conflict_aware_mixture`` look. Cost: one pass over the rows, no model.
"""

from trivet.catalogue import method
from trivet.data.prompts import stratified_subset
from trivet.synthesize._mixture import (
    Mixture,
    ProportionConfig,
    Sets,
    by_dimension,
    clean,
    finish,
    in_proportion,
)
from trivet.synthesize._pairs import Pair

VERSION = 1


class Config(ProportionConfig):
    """The proportions, the total and the seed."""


@method(paper="2502.06876", version=VERSION, takes=("DataSet",), gives=("DataSet",))
def mix(config: Config, sets: Sets) -> Mixture:
    """Draw each dimension's part of the mixture.

    Raises:
        DataError: a row breaks the format, or a dimension has fewer pairs than its part of ``total``.
        ConfigError: ``proportions`` names other dimensions than the rows.
    """
    pairs, ledger = clean(sets, config.seed)
    drawn = {d: shuffled(members, config.seed) for d, members in by_dimension(pairs).items()}
    kept = in_proportion(drawn, config, ledger)
    return finish(kept, ledger, config, method="synthesize/heuristic_mixture", version=VERSION, measures={})


def shuffled(pairs: list[Pair], seed: int) -> list[Pair]:
    """``pairs`` in a drawn order; the first n of them hold the sources nearly as all of them do."""
    rows = [{"id": pair.identity, "source": pair.source, "pair": pair} for pair in pairs]
    return [row["pair"] for row in stratified_subset(rows, len(rows), key="source", seed=seed)]
