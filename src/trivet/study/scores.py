"""Measurements as tables: for each component, systems by questions."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trivet.errors import StudyError
from trivet.study.measurements import Measurement

Floats = npt.NDArray[np.float64]

LIMIT_STOPS = ("max_tokens", "model_length")
"""Stop reasons of an answer that was cut."""


@dataclass(frozen=True)
class ScoreTable:
    """One component. Arrays are ``[S, Q]``, systems by questions, and hold sums over a question's answers.

    ``answers`` counts all answers and ``scored`` those with a score; ``total`` sums the scores; ``correct``,
    ``idk`` and ``matched`` count scored answers with that label (``matched``: the right answer is in the
    text, whatever the label). ``clusters`` ``[Q]`` are numbers that mean the same cluster in every table:
    questions with one cluster name are not independent, in whatever evaluation they stand. ``bounds`` are the
    score's limits, ``None`` where a score outside [0, 1] was seen.
    """

    evaluation: str
    component: str
    systems: tuple[str, ...]
    ids: tuple[str, ...]
    clusters: npt.NDArray[np.intp]
    answers: Floats
    scored: Floats
    total: Floats
    correct: Floats
    idk: Floats
    matched: Floats
    rows: dict[str, list[Measurement]]
    bounds: tuple[float, float] | None

    @property
    def has(self) -> npt.NDArray[np.bool_]:
        """``[S, Q]``: whether the system has a scored answer to the question."""
        return np.asarray(self.scored > 0)

    def share(self, sums: Floats) -> Floats:
        """``sums`` over the scored answers, 0 where there is none."""
        return np.divide(sums, self.scored, out=np.zeros_like(sums), where=self.scored > 0)

    def row(self, system: str) -> int:
        """The system's row."""
        return self.systems.index(system)


def score_tables(
    measurements: Iterable[Measurement], systems: Sequence[str]
) -> dict[tuple[str, str], ScoreTable]:
    """One table for each (evaluation, component), in order of appearance.

    Raises:
        StudyError: an answer is there twice, or a measurement is of a system that is not in ``systems``.
    """
    grouped: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        grouped.setdefault((measurement.evaluation, measurement.component), []).append(measurement)
    clusters: dict[str, int] = {}
    return {key: _table(key, rows, tuple(systems), clusters) for key, rows in grouped.items()}


def _table(
    key: tuple[str, str], rows: list[Measurement], systems: tuple[str, ...], clusters: dict[str, int]
) -> ScoreTable:
    _check(key, rows, systems)
    ids = {name: number for number, name in enumerate(dict.fromkeys(row.sample_id for row in rows))}
    cluster_of = {row.sample_id: row.cluster for row in rows}
    place = {name: number for number, name in enumerate(systems)}
    s = np.array([place[row.system] for row in rows])
    q = np.array([ids[row.sample_id] for row in rows])
    values = np.array([0.0 if row.value is None else row.value for row in rows])
    scored = np.array([row.value is not None for row in rows])
    labels = np.array([row.label or "" for row in rows])
    matched = np.array([bool(row.metadata.get("matched", row.label == "correct")) for row in rows])
    by_system: dict[str, list[Measurement]] = {name: [] for name in systems}
    for row in rows:
        by_system[row.system].append(row)

    def sums(weights: npt.NDArray[np.generic]) -> Floats:
        flat = np.bincount(s * len(ids) + q, weights=weights, minlength=len(systems) * len(ids))
        return np.asarray(flat, dtype=np.float64).reshape(len(systems), len(ids))

    inside = bool(np.all((values >= 0) & (values <= 1)))
    return ScoreTable(
        evaluation=key[0],
        component=key[1],
        systems=systems,
        ids=tuple(ids),
        clusters=np.array(
            [clusters.setdefault(cluster_of[name], len(clusters)) for name in ids], dtype=np.intp
        ),
        answers=sums(np.ones(len(rows))),
        scored=sums(scored),
        total=sums(values),
        correct=sums(scored & (labels == "correct")),
        idk=sums(scored & (labels == "idk")),
        matched=sums(scored & matched),
        rows=by_system,
        bounds=(0.0, 1.0) if inside else None,
    )


def _check(key: tuple[str, str], rows: list[Measurement], systems: tuple[str, ...]) -> None:
    where = f"evaluation {key[0]}, component {key[1]}"
    seen = Counter((row.system, row.sample_id, row.epoch) for row in rows)
    (system, sample, epoch), count = seen.most_common(1)[0]
    if count > 1:
        raise StudyError(
            f"the answer of {system} to {sample!r}, epoch {epoch}, is there {count} times",
            where=where,
            hint="every sample of an evaluation needs its own id",
        )
    for name in dict.fromkeys(row.system for row in rows):
        if name not in systems:
            raise StudyError(f"measurements of an unknown system {name!r}", where=where)
