"""The rows of a study's table: one component of one evaluation for one system."""

from collections import Counter
from collections.abc import Mapping

from trivet.statistics.interval import Estimated, Interval
from trivet.statistics.means import clustered_mean
from trivet.statistics.rogan_gladen import corrected_rate
from trivet.study.judge_quality import EVENTS, estimate, event_of
from trivet.study.leg_values import question_bounds
from trivet.study.results import Bounds, ComponentResult, Estimate, JudgeInfo
from trivet.study.scores import LIMIT_STOPS, ScoreTable


def component_result(
    table: ScoreTable, system: str, judges: Mapping[str, JudgeInfo], *, seed: int, level: float = 0.95
) -> ComponentResult | None:
    """The row, ``None`` where the system was not asked."""
    s, rows = table.row(system), table.rows[system]
    if not rows:
        return None
    has = table.has[s]
    result = clustered_mean(
        table.share(table.total)[s][has], table.clusters[has].tolist(), level=level, bounds=table.bounds
    )
    unscored = [row for row in rows if row.value is None]
    if result.value is None:
        result = result._replace(reason=f"none of {len(rows)} answers could be scored")
    bounds = None
    if table.bounds is not None:
        low, high = question_bounds(table, system, table.total)
        bounds = Bounds(low=low, high=high)
    labels = Counter(str(row.label) for row in rows if row.label is not None)
    judge = Counter(row.judge for row in rows if row.judge is not None).most_common(1)
    name = judge[0][0] if judge else None
    return ComponentResult(
        system=system,
        evaluation=table.evaluation,
        component=table.component,
        n_questions=result.n,
        n_clusters=result.clusters,
        epochs=int(table.answers[s].max()),
        n_answers=len(rows),
        n_unscored=len(unscored),
        n_limit_stopped=sum(row.metadata.get("stop_reason") in LIMIT_STOPS for row in rows),
        unscored_reasons=dict(Counter(row.reason or "no reason was given" for row in unscored).most_common()),
        estimate=estimate(result),
        bounds=bounds,
        labels=dict(labels.most_common()),
        off_topic_share=_off_topic(labels),
        judge=name,
        corrected=_corrected(table.component, result, judges.get(name or ""), level),
        seed=seed,
    )


def _off_topic(labels: Counter[str]) -> float | None:
    """Share of ``off_topic`` among the answers with a refusal label."""
    if not labels.keys() & {"full_refusal", "partial_refusal", "compliance", "off_topic"}:
        return None
    return labels["off_topic"] / labels.total()


def _corrected(component: str, result: Estimated, judge: JudgeInfo | None, level: float) -> Estimate | None:
    """The rate corrected for the judge's error, where a judge with an error decides a binary verdict."""
    if judge is None or component not in EVENTS or result.value is None:
        return None
    calibration = event_of(judge, component)
    if calibration is None:
        reason = f"the judge's error on {EVENTS[component]!r} was not measured"
        return Estimate(value=None, reason=reason)
    # A score of 0 is the event that the judge was calibrated on.
    corrected = corrected_rate(1 - result.value, _effective_size(result), calibration, level=level)
    if corrected.value is None or corrected.interval is None:
        return estimate(corrected)
    mirrored = Interval(
        1 - corrected.interval.high, 1 - corrected.interval.low, level, corrected.interval.method
    )
    return estimate(corrected._replace(value=1 - corrected.value, interval=mirrored))


def _effective_size(result: Estimated) -> float:
    """Independent answers that carry as much as the clustered ones do."""
    rate, error = result.value or 0.0, result.standard_error
    if not error or not 0 < rate < 1:
        return float(result.clusters)
    return rate * (1 - rate) / error**2 * result.clusters / (result.clusters - 1)
