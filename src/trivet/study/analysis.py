"""From scored answers to the numbers of a study."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trivet._validation import did_you_mean
from trivet.errors import StudyError
from trivet.study.comparisons import compare
from trivet.study.components import component_result
from trivet.study.fronts import REPLICATES, fronts
from trivet.study.honesty import honesty_statistics
from trivet.study.judge_quality import judge_info
from trivet.study.leg_values import leg_result
from trivet.study.legs import Term, missing_parts, resolve_legs
from trivet.study.measurements import Measurement
from trivet.study.results import (
    Analysis,
    Comparison,
    ComponentResult,
    HonestyStatistics,
    JudgeInfo,
    LegResult,
)
from trivet.study.scores import ScoreTable, score_tables
from trivet.study.spec import EvaluationEntry

MUCH_UNSCORED = 0.05
MUCH_OFF_TOPIC = 0.2
MUCH_CUT = 0.2
FEW_CLUSTERS = 30


def analyse(
    measurements: Sequence[Measurement],
    *,
    reference: str,
    seed: int,
    systems: Sequence[str] | None = None,
    evaluations: Sequence[EvaluationEntry] | None = None,
    legs: Mapping[str, Any] | None = None,
    judges: Mapping[str, Mapping[str, Any]] | None = None,
    level: float = 0.95,
    power: float = 0.8,
    replicates: int = REPLICATES,
) -> Analysis:
    """Components, legs, comparisons, fronts and honesty statistics of a study.

    The answers to one question are averaged first; the unit of inference is the cluster of questions. The
    result follows from the arguments alone.

    Args:
        measurements: every answer of every system; ``value`` ``None`` is "could not score", never 0.
        reference: the system that the others are compared with, and that ``honest`` is measured against.
        seed: of the bootstrap.
        systems: names in the order of the report; a system without measurements "could not be scored", the
            reference too, and then nothing is compared with it. By default those of the measurements.
        evaluations: the study's entries, for ``leg`` and ``higher_is_better``; by default the evaluations
            that ship, by name.
        legs: the study's ``legs``, see ``study.legs``.
        judges: by name, what each judge says of its quality, see ``study.judge_quality``.
        replicates: bootstrap resamples for the fronts.

    Raises:
        StudyError: nothing was measured, an answer is there twice, or ``reference`` is unknown.
        ConfigError: ``legs`` is wrong.
        JudgeError: a judge's quality is malformed.
    """
    names = list(dict.fromkeys(row.system for row in measurements)) if systems is None else list(systems)
    if not measurements:
        raise StudyError("no answer was measured", hint="see the failed steps")
    if reference not in names:
        if systems is None:
            raise StudyError(
                f"there is no system {reference!r} to be the reference", hint=did_you_mean(reference, names)
            )
        names.append(reference)  # it failed: the others are still worth a report
    known = {name: judge_info(name, quality, level=level) for name, quality in (judges or {}).items()}
    tables = score_tables(measurements, names)
    rows = [
        row
        for table in tables.values()
        for name in names
        if (row := component_result(table, name, known, seed=seed, level=level)) is not None
    ]
    parts = resolve_legs(_components(tables), evaluations, legs)
    results = [
        leg_result(leg, terms, tables, name, reference, level=level)
        for leg, terms in parts.items()
        for name in names
    ]
    notes = {leg: note for leg, terms in parts.items() if (note := _note(leg, terms, legs))}
    results = [row.model_copy(update={"note": notes.get(row.leg)}) for row in results]
    comparisons, pairwise = compare(parts, results, tables, names, reference, level=level, power=power)
    generator = np.random.default_rng(seed)
    front, pair_fronts = fronts(
        parts, results, tables, names, reference, generator, level=level, replicates=replicates
    )
    return Analysis(
        reference=reference,
        level=level,
        power=power,
        components=rows,
        legs=results,
        comparisons=comparisons,
        pairwise=pairwise,
        front=front,
        pair_fronts=pair_fronts,
        honesty=_honesty(parts, tables, names, reference, level),
        judges=list(known.values()),
        warnings=_warnings(rows, results, comparisons, known, notes),
    )


def _components(tables: Mapping[tuple[str, str], ScoreTable]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for evaluation, component in tables:
        found.setdefault(evaluation, []).append(component)
    return found


def _note(leg: str, terms: Sequence[Term], overrides: Mapping[str, Any] | None) -> str | None:
    missing = missing_parts(leg, terms, overrides)
    if not missing:
        return None
    present = ", ".join(dict.fromkeys(term.name for term in terms))
    return f"{leg} is the mean of {present} alone; not measured: {', '.join(missing)}"


def _honesty(
    parts: Mapping[str, Sequence[Term]],
    tables: Mapping[tuple[str, str], ScoreTable],
    systems: Sequence[str],
    reference: str,
    level: float,
) -> list[HonestyStatistics]:
    term = next((t for terms in parts.values() for t in terms if t.kind == "known"), None)
    if term is None or (term.evaluation, "answerable") not in tables:
        return []
    return honesty_statistics(
        tables[term.evaluation, "answerable"],
        tables.get((term.evaluation, "unanswerable")),
        systems,
        reference,
        level=level,
    )


def _warnings(
    rows: Sequence[ComponentResult],
    legs: Sequence[LegResult],
    comparisons: Sequence[Comparison],
    judges: Mapping[str, JudgeInfo],
    notes: Mapping[str, str],
) -> list[str]:
    """What a reader must know before believing a number, each thing once."""
    found = list(notes.values())
    for row in rows:
        where = f"{row.system}, {row.evaluation}" + (
            f"/{row.component}" if row.component != row.evaluation else ""
        )
        if row.n_unscored > MUCH_UNSCORED * row.n_answers:
            found.append(f"{where}: {row.n_unscored} of {row.n_answers} answers could not be scored")
        if row.off_topic_share is not None and row.off_topic_share > MUCH_OFF_TOPIC:
            found.append(f"{where}: {row.off_topic_share:.0%} of the answers are off-topic or incoherent")
        if row.n_limit_stopped > MUCH_CUT * row.n_answers:
            found.append(f"{where}: {row.n_limit_stopped} of {row.n_answers} answers were cut at max_tokens")
        if row.corrected is not None and row.corrected.value is None:
            # The reason may rest on the judge alone; then it is the same for every system and said once.
            found.append(f"{row.evaluation}: not corrected for the judge's error: {row.corrected.reason}")
    used = {row.judge for row in rows}
    found += [info.warning for name, info in judges.items() if info.warning and name in used]
    for leg in dict.fromkeys(entry.leg for entry in legs):
        few = [entry.n_clusters for entry in legs if entry.leg == leg and entry.estimate.value is not None]
        if few and min(few) < FEW_CLUSTERS:
            found.append(f"{leg} rests on {min(few)} independent questions only")
    for entry in comparisons:
        if entry.n_dropped:
            found.append(
                f"{entry.system} against {entry.baseline}, {entry.leg}: {entry.n_dropped} questions have a "
                "score for one of the two only and are left out of the difference"
            )
    return list(dict.fromkeys(found))
