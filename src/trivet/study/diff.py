"""``trivet study diff``: did a leg fall between two studies?

A leg fell when the later estimate lies below the lower end of the earlier study's interval. Beside it stands
the interval of the change, later minus earlier, as of two independent samples (Newcombe's way of putting two
intervals together, Zou and Donner 2008); where both studies asked the same questions it is wider than need
be.
"""

import math
from collections.abc import Iterator
from typing import Literal

from trivet.errors import StudyError
from trivet.study.results import COLUMNS, Estimate, Interval, Result, StudyResults

Change = Literal["fell", "rose", "within", "lost", "gained", "not scored"]


class LegChange(Result):
    """One leg of one system in both studies.

    ``change``: ``fell`` and ``rose`` are beyond the earlier interval; ``lost`` had a value and has none now.
    """

    system: str
    leg: str
    earlier: Estimate
    later: Estimate
    difference: Estimate
    change: Change


class StudyDiff(Result):
    """Two studies, leg by leg. ``notes`` name what makes them hard to compare."""

    earlier: str
    later: str
    changes: list[LegChange]
    only_earlier: list[str]
    only_later: list[str]
    notes: list[str]

    @property
    def fell(self) -> list[LegChange]:
        """The legs that fell beyond their interval, or lost their value."""
        return [change for change in self.changes if change.change in ("fell", "lost")]


def diff_studies(earlier: StudyResults, later: StudyResults) -> StudyDiff:
    """Compare the systems of the same name.

    Raises:
        StudyError: no system is in both.
    """
    before, after = _systems(earlier), _systems(later)
    shared = [name for name in before if name in after]
    if not shared:
        raise StudyError(
            "no system is in both studies, so they cannot be compared",
            where=f"{earlier.study}, {later.study}",
            hint=f"earlier: {', '.join(before)}; later: {', '.join(after)}",
        )
    return StudyDiff(
        earlier=f"{earlier.study}, {earlier.created}",
        later=f"{later.study}, {later.created}",
        changes=[change for name in shared for change in _changes(name, earlier, later)],
        only_earlier=[name for name in before if name not in after],
        only_later=[name for name in after if name not in before],
        notes=_notes(earlier, later, shared),
    )


def _systems(results: StudyResults) -> list[str]:
    return list(dict.fromkeys(entry.system for entry in results.legs))


def _changes(name: str, earlier: StudyResults, later: StudyResults) -> Iterator[LegChange]:
    for leg in COLUMNS:
        first, second = earlier.leg(name, leg), later.leg(name, leg)
        if first is None and second is None:
            continue
        absent = Estimate(value=None, reason="not measured")
        old = absent if first is None else first.estimate
        new = absent if second is None else second.estimate
        yield LegChange(
            system=name,
            leg=leg,
            earlier=old,
            later=new,
            difference=_difference(old, new),
            change=_change(old, new),
        )


def _change(old: Estimate, new: Estimate) -> Change:
    if old.value is None:
        return "not scored" if new.value is None else "gained"
    if new.value is None:
        return "lost"
    # Without an interval any move is beyond it: nothing says that it might be chance.
    low = old.interval.low if old.interval else old.value
    high = old.interval.high if old.interval else old.value
    if new.value < low:
        return "fell"
    return "rose" if new.value > high else "within"


def _difference(old: Estimate, new: Estimate) -> Estimate:
    if old.value is None or new.value is None:
        return Estimate(value=None, reason="one of the two has no value")
    change = new.value - old.value
    if old.interval is None or new.interval is None or old.interval.level != new.interval.level:
        return Estimate(value=change, reason="the studies give no intervals of one level")
    low = change - math.hypot(new.value - new.interval.low, old.interval.high - old.value)
    high = change + math.hypot(new.interval.high - new.value, old.value - old.interval.low)
    return Estimate(
        value=change,
        interval=Interval(low=low, high=high, level=old.interval.level, method="MOVER, two samples"),
    )


def _notes(earlier: StudyResults, later: StudyResults, shared: list[str]) -> list[str]:
    notes = []
    old, new = ({e.name: e for e in results.evaluations} for results in (earlier, later))
    for name in dict.fromkeys([*old, *new]):
        if name not in old or name not in new:
            notes.append(f"evaluation {name} is in the {'later' if name in new else 'earlier'} study only")
            continue
        keys = ("suite_hash", "revision", "n_prompts", "epochs", "max_tokens", "judge")
        changed = [key for key in keys if getattr(old[name], key) != getattr(new[name], key)]
        if changed:
            notes.append(f"evaluation {name} changed: {', '.join(changed)}")
    before, after = ({s.name: s.identity for s in results.systems} for results in (earlier, later))
    notes += [
        f"system {name} changed: {before[name]} → {after[name]}"
        for name in shared
        if before.get(name) != after.get(name) and name in before and name in after
    ]
    if earlier.reference != later.reference:
        notes.append(
            f"the reference changed from {earlier.reference} to {later.reference}, and `honest` with it"
        )
    versions = earlier.environment.versions, later.environment.versions
    moved = [
        f"{name} {versions[0][name]} → {versions[1][name]}"
        for name in versions[0]
        if name in versions[1] and versions[0][name] != versions[1][name]
    ]
    return notes + ([f"versions changed: {', '.join(moved)}"] if moved else [])
