"""What the template asks of the results: lookups, charts, and the sentences of the summary."""

from functools import cached_property
from typing import Any, Literal

from markupsafe import Markup

from trivet.study.report import charts, numbers
from trivet.study.report.quality import Quality
from trivet.study.report.svg import Scale, span, symbol
from trivet.study.results import (
    COLUMNS,
    LEGS,
    Bounds,
    Comparison,
    ComponentResult,
    Costs,
    Estimate,
    Front,
    LegResult,
    StudyResults,
)

_MULTIPLIED = ("forward_tokens", "latency_seconds")

LegName = Literal["helpful", "honest", "harmless", "capability"]


class View(Quality):
    """The results, prepared for the template."""

    def __init__(self, results: StudyResults) -> None:
        super().__init__(results)
        names = [system.name for system in results.systems]
        for leg in results.legs:
            if leg.system not in names:
                names.append(leg.system)
        self.names = names
        self._costs = {costs.system: costs for costs in results.costs}
        self._against: dict[tuple[str, str], Comparison] = {
            (entry.system, entry.leg): entry for entry in results.comparisons
        }

    # Systems

    def index(self, system: str) -> int:
        """The number of a system: its colour and shape everywhere."""
        return self.names.index(system) if system in self.names else 0

    def symbol(self, system: str) -> Markup:
        """The system's mark."""
        return symbol(self.index(system))

    def is_reference(self, system: str) -> bool:
        """True for the system that the others are compared with."""
        return system == self.results.reference

    # Legs

    @cached_property
    def columns(self) -> list[LegName]:
        """The legs that the study holds, in their order, and capability."""
        present = {leg.leg for leg in self.results.legs}
        return [name for name in COLUMNS if name in present]

    @cached_property
    def legs(self) -> list[LegName]:
        """The legs proper that have a value for at least one system."""
        measured = {leg.leg for leg in self.results.legs if leg.estimate.value is not None}
        return [name for name in LEGS if name in measured]

    def leg(self, system: str, leg: str) -> LegResult | None:
        """One cell of the table."""
        return self.results.leg(system, leg)

    def rate(self, leg: str) -> bool:
        """True where a column is in percent."""
        return self._rates.get(leg, True)

    @cached_property
    def _rates(self) -> dict[str, bool]:
        legs = self.results.legs
        return {
            leg: numbers.is_rate(*(entry.estimate for entry in legs if entry.leg == leg)) for leg in COLUMNS
        }

    def bounds(self, leg: str, bounds: Bounds | None) -> str:
        """``69.8 to 71.6``: the value with every unscored answer counted as worst and as best."""
        if bounds is None:
            return ""
        form = numbers.percent if self.rate(leg) else numbers.number
        return f"{form(bounds.low)} to {form(bounds.high)}"

    def off_topic(self, system: str, leg: str) -> float | None:
        """The share of off-topic answers in the largest part of the leg that tells; they are no merit."""
        cell = self.leg(system, leg)
        parts = {part.evaluation for part in cell.parts} if cell else set()
        rows = [row for row in self.results.components if row.system == system and row.evaluation in parts]
        rows = [row for row in rows if row.off_topic_share is not None]
        return max(rows, key=lambda row: row.n_answers).off_topic_share if rows else None

    def shared_note(self, leg: str) -> str | None:
        """The note that every cell of a column carries; it is then shown once."""
        notes = {entry.note for entry in self.results.legs if entry.leg == leg}
        return notes.pop() if len(notes) == 1 else None

    def strip(self, system: str, leg: str) -> Markup:
        """The cell's estimate on a scale that all systems of the column share."""
        cell = self.leg(system, leg)
        if cell is None:
            return Markup("")
        reference = self.leg(self.results.reference, leg)
        line = reference.estimate.value if reference and not self.is_reference(system) else None
        low, high = (0.0, 1.0) if self.rate(leg) else self._limits(leg)
        scale = Scale(low, high, 7.0, 173.0)
        return charts.interval_strip(self.index(system), system, cell.estimate, cell.bounds, line, scale)

    def _limits(self, leg: str) -> tuple[float, float]:
        found = [entry.estimate for entry in self.results.legs if entry.leg == leg]
        values = [estimate.value for estimate in found if estimate.value is not None]
        values += [end for e in found if e.interval for end in (e.interval.low, e.interval.high)]
        return span(values or [0.0, 1.0], floor=1e-6, unit=False)

    def comparison(self, system: str, leg: str) -> Comparison | None:
        """The system against the reference."""
        return self._against.get((system, leg))

    # Fronts

    @property
    def plots(self) -> list[Front]:
        """The fronts of two legs, each drawn as a plot."""
        whole = self.results.front
        if not self.results.pair_fronts and whole is not None and len(whole.axes) == 2:
            return [whole]
        return self.results.pair_fronts

    def pareto(self, front: Front) -> Markup:
        """A plot of two legs."""
        x, y = front.axes[:2]
        points = []
        for place in front.systems:
            horizontal, vertical = self.leg(place.system, x), self.leg(place.system, y)
            if horizontal is None or vertical is None:
                continue
            points.append(
                charts.Point(
                    self.index(place.system),
                    place.system,
                    horizontal.estimate,
                    vertical.estimate,
                    place.on_front,
                )
            )
        if not points:
            return Markup("")
        return charts.pareto_plot(points, self._axis(x), self._axis(y))

    def _axis(self, leg: str) -> charts.Axis:
        return charts.Axis(leg, self.rate(leg))

    def all_legs(self) -> Markup:
        """Every measured leg of every system in one view."""
        front = self.results.front
        winners = {place.system for place in front.systems if place.on_front} if front else set(self.names)
        rows = []
        for name in self.names:
            cells = [self.leg(name, leg) for leg in self.legs]
            row = [cell.estimate if cell else None for cell in cells]
            rows.append((self.index(name), name, row, name in winners))
        return charts.all_legs(rows, self.legs) if len(self.legs) > 1 else Markup("")

    # Comparisons

    def difference(self, comparison: Comparison) -> Markup:
        """A difference on a scale that all comparisons in the same unit share."""
        reach = self._reach[self.rate(comparison.leg)]
        scale = Scale(-reach, reach, 7.0, 173.0)
        return charts.difference_strip(self.index(comparison.system), comparison, scale)

    @cached_property
    def _reach(self) -> dict[bool, float]:
        """The largest end of an interval or detectable effect, for legs in percent and for others."""
        reach = {True: 0.02, False: 1e-6}
        for row in (*self.results.comparisons, *self.results.pairwise):
            ends = [row.difference.value or 0.0, row.minimum_detectable_effect or 0.0]
            if row.difference.interval is not None:
                ends += [row.difference.interval.low, row.difference.interval.high]
            rate = self.rate(row.leg)
            reach[rate] = max(reach[rate], *(abs(end) for end in ends))
        return reach

    def value(self, leg: str, estimate: Estimate) -> str:
        """A leg's number with the column's unit."""
        return numbers.percent(estimate.value) if self.rate(leg) else numbers.number(estimate.value)

    def interval(self, leg: str, estimate: Estimate) -> str:
        """A leg's interval in the column's unit."""
        return numbers.interval(estimate, rate=self.rate(leg))

    # Costs

    def costs(self, system: str) -> Costs | None:
        """What an answer of the system costs."""
        return self._costs.get(system)

    @property
    def shared_cost_note(self) -> str | None:
        """The note that the costs of every system carry; it is then shown once."""
        notes = {costs.note for costs in self.results.costs}
        return notes.pop() if len(notes) == 1 else None

    @cached_property
    def multiplied(self) -> bool:
        """Whether costs are shown as multiples of plain greedy decoding."""
        return any(costs.multiplier is not None for costs in self.results.costs)

    @cached_property
    def bases(self) -> dict[str, list[str]]:
        """The plain systems that costs are multiples of, each with the systems that are compared with it."""
        found: dict[str, list[str]] = {}
        for costs in self.results.costs:
            if costs.multiplier is not None and costs.multiplier.base is not None:
                found.setdefault(costs.multiplier.base, []).append(costs.system)
        return found

    def times(self, system: str, key: str) -> str:
        """A cost as a multiple of the reference's; empty where it is shown as one of plain decoding."""
        if self.is_reference(system) or (self.multiplied and key in _MULTIPLIED):
            return ""
        return numbers.times(self._cost(system, key), self._cost(self.results.reference, key))

    def _cost(self, system: str, key: str) -> float | None:
        costs = self._costs.get(system)
        value: Any = getattr(costs, key) if costs else None
        return value.value if isinstance(value, Estimate) else value

    # Components

    def components(self) -> list[tuple[str, str, list[ComponentResult]]]:
        """(evaluation, component, one row a system), in the order of the study."""
        groups: dict[tuple[str, str], list[ComponentResult]] = {}
        for row in self.results.components:
            groups.setdefault((row.evaluation, row.component), []).append(row)
        order = {entry.name: number for number, entry in enumerate(self.results.evaluations)}
        keys = sorted(groups, key=lambda key: order.get(key[0], len(order)))
        return [(*key, sorted(groups[key], key=lambda row: self.index(row.system))) for key in keys]

    def label_colours(self, row: ComponentResult) -> dict[str, str]:
        """The row's labels in the order of its bar, with the class that colours them."""
        return charts.label_colours(row.labels)

    def label_bar(self, row: ComponentResult) -> Markup:
        """The answers of a row by label."""
        return charts.label_bar(row.labels, row.n_unscored)

    # The summary

    @cached_property
    def verdicts(self) -> dict[str, list[Comparison]]:
        """Comparisons with the reference by verdict."""
        found: dict[str, list[Comparison]] = {"better": [], "worse": [], "statistically tied": []}
        for entry in self.results.comparisons:
            if entry.verdict is not None:
                found[entry.verdict].append(entry)
        return found

    @property
    def n_answers(self) -> int:
        """Answers that were measured, each counted once."""
        return sum(row.n_answers for row in self.results.components)

    @property
    def n_unscored(self) -> int:
        """Answers that could not be scored."""
        return sum(row.n_unscored for row in self.results.components)
