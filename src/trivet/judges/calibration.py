"""How well a judge agrees with people's labels, and whether its errors differ between systems.

A study corrects a rate that a judge saw for the judge's measured error (Rogan and Gladen 1978). That needs
sensitivity and specificity for a *binary event*; for the four refusal labels the events are ``compliance``
(what counts as harm), ``refusal`` (full or partial) and ``full_refusal``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trivet.data.prompts import prompt_digest
from trivet.errors import DataError, JudgeError
from trivet.judges.base import Judge, Verdict
from trivet.statistics.agreement import Confusion, cohen_kappa, confusion
from trivet.statistics.bootstrap import clustered_bootstrap, percentile_interval
from trivet.statistics.interval import Estimated, Interval

REFUSAL_LABELS = ("full_refusal", "partial_refusal", "compliance", "off_topic")

REFUSAL_EVENTS: Mapping[str, frozenset[str]] = {
    "compliance": frozenset({"compliance"}),
    "refusal": frozenset({"full_refusal", "partial_refusal"}),
    "full_refusal": frozenset({"full_refusal"}),
}


class LabelledAnswer(NamedTuple):
    """An answer that people labelled. ``cluster`` holds answers that are not independent: one prompt."""

    prompt: str
    answer: str
    label: str
    system: str
    cluster: str


@dataclass(frozen=True)
class Calibration:
    """A judge against labels.

    ``labels`` and ``verdicts`` are aligned and hold the answers that could be scored; ``unscored`` counts the
    others by reason, ``fitted_on`` those left out since the judge was fitted on their prompts. ``systems_p``
    is the p-value of ``errors_differ`` (``None`` with one system).
    """

    judge: str
    labels: tuple[str, ...]
    verdicts: tuple[str, ...]
    systems: tuple[str, ...]
    clusters: tuple[str, ...]
    kappa: Estimated
    events: Mapping[str, Confusion]
    by_system: Mapping[str, Mapping[str, Confusion]]
    errors: Mapping[str, tuple[int, int]]
    systems_p: float | None
    unscored: Mapping[str, int] = field(default_factory=dict)
    fitted_on: int = 0

    def quality(self, population: str) -> dict[str, Any]:
        """The form that ``Judge.quality`` has: plain JSON values."""
        return {
            "population": population,
            "n": len(self.labels),
            "clusters": len(set(self.clusters)),
            "systems": sorted(set(self.systems)),
            "unscored": sum(self.unscored.values()),
            "left_out_fitted_on": self.fitted_on,
            "kappa": estimate_json(self.kappa),
            "events": {name: event_json(counts) for name, counts in self.events.items()},
        }


def calibrate(
    judge: Judge,
    rows: Sequence[LabelledAnswer],
    *,
    threshold: float | None = None,
    positive: str | None = None,
    seed: int = 0,
) -> Calibration:
    """Score the answers and compare with their labels. Answers to prompts of the judge's fit are left out.

    Args:
        judge: gives labels, or values.
        threshold: for a judge without labels: a value of this or more is the label ``positive``, any other is
            ``not positive``.
        positive: the label that counts as having the judge's objective; needed with ``threshold``.
        seed: of the bootstrap and of the permutation test.

    Raises:
        DataError: no rows. JudgeError: nothing could be scored, a threshold is missing, or the judge was
            fitted on all prompts.
    """
    if not rows:
        raise DataError("there are no labelled answers")
    given = len(rows)
    rows = [row for row in rows if prompt_digest(row.prompt) not in judge.training_prompts]
    if not rows:
        raise JudgeError(
            f"the judge {judge.name!r} was fitted on the prompts of all {given} answers, so they do not "
            "measure it",
            hint="label answers to other prompts, for example with `trivet judges sample`",
        )
    chats = [_chat(row) for row in rows]
    scored: list[tuple[LabelledAnswer, str]] = []
    unscored: dict[str, int] = {}
    for row, verdict in zip(rows, judge.score(chats), strict=True):
        if verdict.value is None and verdict.label is None:
            unscored[verdict.reason or ""] = unscored.get(verdict.reason or "", 0) + 1
        else:
            scored.append((row, _label(verdict, threshold, positive)))
    if not scored:
        raise JudgeError(f"the judge {judge.name!r} could score none of the answers: {next(iter(unscored))}")
    kept = [row for row, _ in scored]
    labels = [
        row.label if threshold is None else (str(positive) if row.label == positive else f"not {positive}")
        for row in kept
    ]
    found = compare(
        judge.name,
        labels,
        [label for _, label in scored],
        systems=[row.system for row in kept],
        clusters=[row.cluster for row in kept],
        unscored=unscored,
        seed=seed,
    )
    return replace(found, fitted_on=given - len(rows))


def compare(
    judge: str,
    labels: Sequence[str],
    verdicts: Sequence[str],
    *,
    systems: Sequence[str],
    clusters: Sequence[str],
    unscored: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Calibration:
    """The agreement of a judge's labels with people's; all sequences are aligned.

    The interval of kappa is a percentile bootstrap over clusters where clusters hold several answers.
    """
    events = events_of([*labels, *verdicts])
    by_system = {
        system: {
            name: _event(
                [v for v, s in zip(labels, systems) if s == system],
                [v for v, s in zip(verdicts, systems) if s == system],
                members,
            )
            for name, members in events.items()
        }
        for system in sorted(set(systems))
    }
    wrong = np.array([a != b for a, b in zip(labels, verdicts, strict=True)])
    names = np.array(systems)
    errors = {
        system: (int(wrong[names == system].sum()), int((names == system).sum())) for system in by_system
    }
    generator = np.random.default_rng(seed)
    return Calibration(
        judge=judge,
        labels=tuple(labels),
        verdicts=tuple(verdicts),
        systems=tuple(systems),
        clusters=tuple(clusters),
        kappa=clustered_kappa(labels, verdicts, clusters, generator),
        events={name: _event(labels, verdicts, members) for name, members in events.items()},
        by_system=by_system,
        errors=errors,
        systems_p=errors_differ(wrong, systems, labels, generator) if len(errors) > 1 else None,
        unscored=dict(unscored or {}),
    )


def events_of(labels: Sequence[str]) -> dict[str, frozenset[str]]:
    """The binary events of a set of labels: the refusal events, or each label against the others."""
    seen = set(labels)
    if seen <= set(REFUSAL_LABELS):
        return dict(REFUSAL_EVENTS)
    return {label: frozenset({label}) for label in sorted(seen)}


def clustered_kappa(
    labels: Sequence[str],
    verdicts: Sequence[str],
    clusters: Sequence[str],
    generator: np.random.Generator,
) -> Estimated:
    """Cohen's kappa with an interval that knows of clusters: they are what is resampled."""
    plain = cohen_kappa(labels, verdicts)
    if plain.value is None or plain.value == 1 or len(set(clusters)) in (1, len(clusters)):
        return plain
    tables = confusion_tables(labels, verdicts, clusters)
    replicates = clustered_bootstrap(lambda counts: kappas(counts, tables), len(tables), generator)
    replicates = replicates[np.isfinite(replicates)]
    interval = percentile_interval(replicates) if len(replicates) > 1 else None
    if interval is None:
        return plain
    return Estimated(plain.value, float(replicates.std(ddof=1)), interval, plain.n, len(tables), plain.reason)


def confusion_tables(
    labels: Sequence[str], verdicts: Sequence[str], clusters: Sequence[str]
) -> NDArray[np.float64]:
    """Counts [clusters, labels, verdicts], both in the order of the sorted union of labels."""
    names = {name: place for place, name in enumerate(sorted({*labels, *verdicts}))}
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    tables = np.zeros((len(places), len(names), len(names)))
    for label, verdict, cluster in zip(labels, verdicts, clusters, strict=True):
        tables[places[cluster], names[label], names[verdict]] += 1
    return tables


def kappas(counts: NDArray[np.float64], tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's kappa of each resample [B] from cluster counts [B, C]; NaN where it is undefined."""
    joint = np.tensordot(counts, tables, axes=1)
    joint = joint / joint.sum(axis=(1, 2), keepdims=True)
    seen = np.trace(joint, axis1=1, axis2=2)
    chance = (joint.sum(axis=2) * joint.sum(axis=1)).sum(axis=1)
    result = np.full(len(joint), np.nan)
    np.divide(seen - chance, 1 - chance, out=result, where=chance < 1)
    return result


def errors_differ(
    wrong: NDArray[np.bool_],
    systems: Sequence[str],
    labels: Sequence[str],
    generator: np.random.Generator,
    *,
    permutations: int = 2000,
) -> float:
    """p-value of "among answers of one label, the judge errs equally often on every system".

    Sensitivity and specificity are error rates given the label, and it is they that a correction needs to be
    equal. The statistic is Pearson's chi-square of errors by system, summed over labels; errors are permuted
    within each label (Good 2005, *Permutation, Parametric and Bootstrap Tests of Hypotheses*), and the
    observed arrangement counts as one.
    """
    codes = np.unique(np.array(systems), return_inverse=True)[1]
    truth = np.array(labels)
    beyond = np.zeros(permutations + 1)
    for label in np.unique(truth):
        errors, of_system = wrong[truth == label].astype(np.float64), codes[truth == label]
        rate = errors.mean()
        if rate in (0.0, 1.0):
            continue
        member = np.eye(codes.max() + 1)[of_system]
        sizes = member.sum(axis=0)
        shuffled = generator.permuted(np.tile(errors, (permutations, 1)), axis=1)
        counts = np.concatenate([errors[None], shuffled]) @ member
        expected = np.maximum(sizes * rate, 1e-12)
        beyond += ((counts - sizes * rate) ** 2 / expected).sum(axis=1) / (1 - rate)
    return float((beyond >= beyond[0] - 1e-9).mean())


def estimate_json(estimate: Estimated) -> dict[str, Any]:
    """An estimate in plain JSON values: value, low, high, n."""
    interval: Interval | None = estimate.interval
    return {
        "value": estimate.value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "n": estimate.n,
    }


def event_json(counts: Confusion) -> dict[str, Any]:
    """The four counts with sensitivity and specificity."""
    return {
        **counts._asdict(),
        "sensitivity": estimate_json(counts.sensitivity()),
        "specificity": estimate_json(counts.specificity()),
    }


def _event(labels: Sequence[str], verdicts: Sequence[str], members: frozenset[str]) -> Confusion:
    return confusion([label in members for label in labels], [verdict in members for verdict in verdicts])


def _chat(row: LabelledAnswer) -> list[dict[str, Any]]:
    return [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.answer}]


def _label(verdict: Verdict, threshold: float | None, positive: str | None) -> str:
    if threshold is None:
        if verdict.label is None:
            raise JudgeError(
                "the judge gives values and no labels", hint="give --threshold and --positive LABEL"
            )
        return verdict.label
    if positive is None or verdict.value is None:
        raise JudgeError(
            "a threshold needs a value and the label that is positive", hint="give --positive LABEL"
        )
    return positive if verdict.value >= threshold else f"not {positive}"
