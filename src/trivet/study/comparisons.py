"""Every system against the reference, and every pair: differences on the same questions, adjusted by Holm."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal, cast

from trivet.statistics.multiplicity import holm
from trivet.statistics.paired import PairedDifference
from trivet.statistics.power import minimum_detectable_effect_from
from trivet.study.leg_values import LegName, Tables, leg_difference
from trivet.study.legs import Term
from trivet.study.results import LEGS, Comparison, Estimate, Interval, LegResult

Verdict = Literal["better", "worse", "statistically tied"]


def compare(
    legs: Mapping[str, Sequence[Term]],
    results: Sequence[LegResult],
    tables: Tables,
    systems: Sequence[str],
    reference: str,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons against the reference, and of all pairs (system, then the baseline that stands before it).

    Two families each, the three legs together and the capability column, adjusted by Holm on their own: the
    comparisons against the reference are what a study is made for and do not pay for the other pairs.
    """
    scores: dict[tuple[str, str], Estimate] = {(entry.system, entry.leg): entry.estimate for entry in results}
    against = [(name, reference) for name in systems if name != reference]
    pairs = [(later, earlier) for earlier, later in combinations(systems, 2)]
    known: dict[tuple[str, str, str], tuple[PairedDifference, int] | str] = {}

    def difference(leg: str, system: str, baseline: str) -> tuple[PairedDifference, int] | str:
        key = (leg, system, baseline)
        if key not in known:
            lacking = next((n for n in (system, baseline) if scores[n, leg].value is None), None)
            if lacking is not None:
                known[key] = f"{lacking}: {scores[lacking, leg].reason}"
            else:
                known[key] = leg_difference(legs[leg], tables, system, baseline, reference, level=level)
        return known[key]

    def family(name: str, chosen: Sequence[tuple[str, str]], columns: Sequence[str]) -> list[Comparison]:
        cells = [(leg, system, baseline) for system, baseline in chosen for leg in columns if leg in legs]
        found = [difference(*cell) for cell in cells]
        tested = [cell[0].p for cell in found if not isinstance(cell, str) and cell[0].p is not None]
        adjusted = iter(holm(tested).tolist())
        return [
            _comparison(cell, result, name, len(tested), adjusted, level, power)
            for cell, result in zip(cells, found, strict=True)
        ]

    return (
        [
            *family("every system against the reference, on the legs", against, LEGS),
            *family("every system against the reference, on capability", against, ("capability",)),
        ],
        [
            *family("all pairs of systems, on the legs", pairs, LEGS),
            *family("all pairs of systems, on capability", pairs, ("capability",)),
        ],
    )


def _comparison(
    cell: tuple[str, str, str],
    result: tuple[PairedDifference, int] | str,
    family: str,
    size: int,
    adjusted: Iterator[float],
    level: float,
    power: float,
) -> Comparison:
    leg, system, baseline = cell
    if isinstance(result, str):
        paired = PairedDifference(None, None, 0.0, None, None, 0, 0, result)
        dropped = 0
    else:
        paired, dropped = result
    p_holm = None if paired.p is None else next(adjusted)
    effect = None
    if paired.standard_error is not None and size:
        effect = minimum_detectable_effect_from(
            paired.standard_error,
            degrees_of_freedom=paired.degrees_of_freedom,
            alpha=(1 - level) / size,
            power=power,
        )
    interval = None if paired.interval is None else Interval(**paired.interval._asdict())
    return Comparison(
        leg=cast(LegName, leg),
        system=system,
        baseline=baseline,
        difference=Estimate(
            value=paired.value,
            standard_error=paired.standard_error,
            interval=interval,
            reason=paired.reason,
        ),
        p=paired.p,
        p_holm=p_holm,
        family=family,
        family_size=size,
        n_questions=paired.n,
        n_clusters=paired.clusters,
        n_dropped=dropped,
        minimum_detectable_effect=effect,
        verdict=_verdict(paired, p_holm, level),
    )


def _verdict(paired: PairedDifference, p_holm: float | None, level: float) -> Verdict | None:
    if p_holm is None or paired.value is None:
        return None
    if p_holm >= 1 - level or paired.value == 0:
        return "statistically tied"
    return "better" if paired.value > 0 else "worse"
