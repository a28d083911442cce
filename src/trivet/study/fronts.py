"""The Pareto fronts of a study: who is on them, how surely, and the hypervolume they cover."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from trivet.statistics.bootstrap import (
    bias_corrected_interval,
    clustered_bootstrap,
    resampled_means,
)
from trivet.statistics.interval import Estimated
from trivet.statistics.pareto import dominance, hypervolume, on_front
from trivet.study.judge_quality import estimate
from trivet.study.leg_values import Tables, column
from trivet.study.legs import Term
from trivet.study.results import LEGS, Estimate, Front, FrontSystem, LegResult
from trivet.study.scores import Floats, ScoreTable

REPLICATES = 2000


def fronts(
    legs: Mapping[str, Sequence[Term]],
    results: Sequence[LegResult],
    tables: Tables,
    systems: Sequence[str],
    reference: str,
    generator: np.random.Generator,
    *,
    level: float = 0.95,
    replicates: int = REPLICATES,
) -> tuple[Front | None, list[Front]]:
    """The front over all legs that some system has a value for, and the fronts over two of them.

    A system's probability of being on the front is the share of paired bootstrap resamples in which no other
    system dominates it: whole clusters of questions are drawn, the same for all systems and legs. Near rates
    of 0 and 1 resamples vary little, so a probability near 0 or 1 rests on what the questions show and not on
    what others might. The hypervolume's interval is bias-corrected.
    """
    values: dict[tuple[str, str], Estimate] = {(entry.system, entry.leg): entry.estimate for entry in results}
    axes = [
        leg for leg in LEGS if leg in legs and any(values[name, leg].value is not None for name in systems)
    ]
    if len(axes) < 2:
        return None, []
    excluded = {
        name: f"{leg}: {values[name, leg].reason}"
        for name in systems
        for leg in reversed(axes)
        if values[name, leg].value is None
    }
    placed = [name for name in systems if name not in excluded]
    if not placed:
        return None, []
    points = np.array([[values[name, leg].value for leg in axes] for name in placed], dtype=np.float64)
    drawn = _resample([legs[leg] for leg in axes], tables, placed, reference, generator, replicates)
    bounded = [all(_bounded(term, tables) for term in legs[leg]) for leg in axes]

    def front(chosen: Sequence[int]) -> Front:
        return _front(
            [axes[i] for i in chosen],
            placed,
            excluded,
            points[:, chosen],
            drawn[:, :, chosen],
            all(bounded[i] for i in chosen),
            level,
        )

    pairs = [front(pair) for pair in combinations(range(len(axes)), 2)] if len(axes) > 2 else []
    return front(range(len(axes))), pairs


def _front(
    axes: list[str],
    systems: list[str],
    excluded: dict[str, str],
    points: Floats,
    drawn: Floats,
    bounded: bool,
    level: float,
) -> Front:
    now, share = on_front(points), on_front(drawn).mean(axis=0) if len(drawn) else None
    dominates = dominance(points)
    return Front(
        axes=axes,
        systems=[
            FrontSystem(
                system=name,
                on_front=bool(now[i]),
                probability=float(share[i]) if share is not None else float(now[i]),
                dominated_by=[other for j, other in enumerate(systems) if dominates[j, i]],
            )
            for i, name in enumerate(systems)
        ],
        excluded=excluded,
        hypervolume=estimate(_hypervolume(points, drawn, bounded, level)),
        reference_point=dict.fromkeys(axes, 0.0) if bounded else {},
        replicates=len(drawn),
    )


def _hypervolume(points: Floats, drawn: Floats, bounded: bool, level: float) -> Estimated:
    count, axes = points.shape
    if not bounded:
        return Estimated(
            None, None, None, count, count, "a leg has no bounds, so there is no corner to measure from"
        )
    corner = np.zeros(axes)
    value = float(hypervolume(points, corner))
    if len(drawn) < 2:
        return Estimated(value, None, None, count, count, "too few resamples hold an answer of every system")
    replicates = hypervolume(drawn, corner)
    interval = bias_corrected_interval(replicates, value, level=level)
    if interval is None:
        return Estimated(
            value, None, None, count, count, "the resamples do not vary, so they show no uncertainty"
        )
    interval = interval._replace(low=min(interval.low, value), high=max(interval.high, value))
    return Estimated(value, float(replicates.std(ddof=1)), interval, count, count)


def _resample(
    legs: Sequence[Sequence[Term]],
    tables: Tables,
    systems: Sequence[str],
    reference: str,
    generator: np.random.Generator,
    replicates: int,
) -> Floats:
    """``[B, S, D]`` legs in resamples; those in which a system has no answer left to a part are dropped."""
    result = np.zeros((replicates, len(systems), len(legs)))
    terms = [(axis, term) for axis, leg in enumerate(legs) for term in leg]
    for keys in _strata({(t.evaluation, t.component) for _, t in terms}, tables):
        used = [(axis, term) for axis, term in terms if (term.evaluation, term.component) in keys]
        names = np.unique(np.concatenate([tables[key].clusters for key in sorted(keys)]))
        sums = [_by_cluster(term, tables, systems, reference, names) for _, term in used]

        def means(counts: Floats, sums: list[tuple[Floats, Floats]] = sums) -> Floats:
            return np.stack([resampled_means(counts, totals, weights) for totals, weights in sums], axis=-1)

        drawn = clustered_bootstrap(means, len(names), generator, replicates=replicates)
        for number, (axis, term) in enumerate(used):
            result[:, :, axis] += term.weight * drawn[:, :, number]
    return result[np.isfinite(result).all(axis=(1, 2))]


def _by_cluster(
    term: Term, tables: Tables, systems: Sequence[str], reference: str, names: npt.NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """``[S, C]`` sums of weight × value and of weights."""
    table = tables[term.evaluation, term.component]
    place = np.searchsorted(names, table.clusters)
    totals, weights = np.zeros((len(systems), len(names))), np.zeros((len(systems), len(names)))
    for i, system in enumerate(systems):
        values, counted = column(term, tables, system, reference)
        np.add.at(totals[i], place, values * counted)
        np.add.at(weights[i], place, counted)
    return totals, weights


def _strata(keys: set[tuple[str, str]], tables: Tables) -> list[set[tuple[str, str]]]:
    """Tables that share clusters are resampled together, the others each by itself."""
    strata: list[tuple[set[tuple[str, str]], set[int]]] = []
    for key in sorted(keys):
        members, clusters = {key}, set(tables[key].clusters.tolist())
        apart = []
        for other, theirs in strata:
            if clusters & theirs:
                members, clusters = members | other, clusters | theirs
            else:
                apart.append((other, theirs))
        strata = [*apart, (members, clusters)]
    return [members for members, _ in strata]


def _bounded(term: Term, tables: Tables) -> bool:
    table: ScoreTable = tables[term.evaluation, term.component]
    return term.kind != "mean" or table.bounds is not None
