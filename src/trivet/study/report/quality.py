"""How far a number can be trusted: the judges behind it, and circular uses that it stands on."""

from collections.abc import Iterable
from dataclasses import dataclass

from trivet.study.report import numbers
from trivet.study.results import Comparison, StudyResults


@dataclass(frozen=True)
class JudgeTag:
    """The quality of a judge in a few words, to stand beside a number that it made."""

    name: str
    text: str
    weak: bool
    title: str


class Quality:
    """Looks up judges and marks of the results."""

    def __init__(self, results: StudyResults) -> None:
        self.results = results
        self._judges = {judge.name: judge for judge in results.judges}

    def judge_tag(self, name: str | None) -> JudgeTag | None:
        """The judge's measured agreement; ``None`` for rules, which have none to measure."""
        info = self._judges.get(name or "")
        if info is None:
            return None
        if info.kappa is None or info.kappa.value is None:
            return JudgeTag(info.name, "agreement not measured", True, f"judge {info.name}")
        interval = numbers.interval(info.kappa, rate=False)
        text = f"κ {info.kappa.value:.2f}"
        where = f"{info.population or 'labelled answers'}, n = {info.n or 0:,}"
        own = "" if info.own_systems else "; not answers of these systems"
        low = info.kappa.interval.low if info.kappa.interval else info.kappa.value
        return JudgeTag(info.name, text, low < 0.4, f"judge {info.name}: {text} {interval}, {where}{own}")

    def judges_of_leg(self, leg: str, systems: Iterable[str] | None = None) -> list[JudgeTag]:
        """Tags of the judges behind a column, or behind some of its cells."""
        wanted = {leg.system for leg in self.results.legs} if systems is None else set(systems)
        parts = {
            (part.evaluation, part.component)
            for entry in self.results.legs
            if entry.leg == leg and entry.system in wanted
            for part in entry.parts
        }
        evaluations = {evaluation for evaluation, _ in parts}
        names: list[str] = []
        for row in self.results.components:
            if row.system not in wanted or row.judge is None or row.judge in names:
                continue
            if (row.evaluation, row.component) in parts or (
                row.evaluation in evaluations and (row.evaluation, None) in parts
            ):
                names.append(row.judge)
        tags = (self.judge_tag(name) for name in names)
        return [tag for tag in tags if tag is not None]

    def judges_of_legs(self, legs: Iterable[str]) -> list[JudgeTag]:
        """Tags of the judges behind several columns, each once."""
        return list({tag.name: tag for leg in legs for tag in self.judges_of_leg(leg)}.values())

    def judge_words(self, system: str, leg: str) -> str:
        """The judges behind a cell and their agreement, for the table to copy."""
        return "; ".join(f"{tag.name} {tag.text}" for tag in self.judges_of_leg(leg, [system]))

    def marks(self, system: str, evaluations: Iterable[str], judge: str | None = None) -> list[str]:
        """Why a number of this system on these evaluations stands on a circular use."""
        wanted = set(evaluations)
        return [
            mark.text
            for mark in self.results.marks
            if mark.system in (None, system)
            and (mark.evaluation is None or mark.evaluation in wanted)
            and (judge is None or mark.judge in (None, judge))
        ]

    def leg_marks(self, system: str, leg: str) -> list[str]:
        """The same for a leg: through every evaluation that is part of it."""
        cell = self.results.leg(system, leg)
        if cell is None:
            return []
        return self.marks(system, {part.evaluation for part in cell.parts})

    def comparison_marks(self, comparison: Comparison) -> list[str]:
        """The same for a difference: through either system."""
        both = self.leg_marks(comparison.system, comparison.leg)
        return both + [
            text for text in self.leg_marks(comparison.baseline, comparison.leg) if text not in both
        ]
