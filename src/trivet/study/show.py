"""A study in the terminal: the plan, the table of results, a diff of two studies."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from trivet._text import printable
from trivet.errors import StoreError
from trivet.study.diff import StudyDiff
from trivet.study.plan import Plan
from trivet.study.results import COLUMNS, Costs, Estimate, StudyResults
from trivet.study.store import Store

RESULTS = "results.json"
NOTES = 8  # shown in the terminal


def read_results(path: Path) -> StudyResults:
    """The results in a store, or in a ``results.json``.

    Raises:
        StoreError: there are none, or they cannot be read.
    """
    path = Path(path)
    return latest_results(path) if path.is_dir() else StudyResults.read(path)


def latest_results(store: Path, name: str | None = None) -> StudyResults:
    """The results of a study in a store; by default of the one that ran last.

    Raises:
        StoreError: the store holds no such study.
    """
    opened = Store(store, create=False)
    studies = opened.studies()
    if name is None and studies:
        name = max(studies, key=lambda key: str(studies[key].get("finished", "")))
    if name is None or name not in studies:
        known = ", ".join(studies) or "none"
        raise StoreError(
            f"holds no finished study {name!r}" if name else "holds no finished study",
            where=str(store),
            hint=f"finished studies: {known}; `trivet study run` makes one",
        )
    return StudyResults.read(opened.folder(str(studies[name]["results"])) / RESULTS)


def print_plan(plan: Plan, console: Console) -> None:
    """The steps with their estimates, and what was cut to fit the time."""
    table = Table(box=None, pad_edge=False, title=f"Plan of {printable(plan.study)}", title_justify="left")
    table.add_column("step")
    writes = any(step.bytes_written for step in plan.steps)  # as only merges do
    for name in ("answers", "tokens ≤", "time", "memory", *(["writes"] if writes else []), "state"):
        table.add_column(name, justify="right")
    for step in plan.steps:
        table.add_row(
            printable(step.name),
            str(step.answers or ""),
            f"{step.tokens:,}" if step.tokens else "",
            "" if step.seconds is None else duration(step.seconds),
            "" if not step.memory_bytes else f"{step.memory_bytes / 2**30:.1f} GB",
            *([f"{step.bytes_written / 1e9:.2f} GB" if step.bytes_written else ""] if writes else []),
            "done" if step.done else "",
        )
    console.print(table)
    total = plan.seconds
    console.print(
        f"\nIn all: {'time not known' if total is None else duration(total)}, {plan.tokens:,} tokens"
    )
    for leg, effect in plan.smallest_effect.items():
        console.print(f"{leg}: the smallest difference that can be detected is about {effect:.2f}")
    for text in (*plan.choice.said, *plan.notes):
        console.print(printable(text))
    for mark in plan.marks:
        console.print(f"circular (allowed): {printable(str(mark['text']))}")


def print_results(results: StudyResults, console: Console) -> None:
    """One row a system: the legs with their intervals, and what an answer costs."""
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # four systems with intervals fit a terminal of 80 columns
        title=printable(results.study),
        title_justify="left",
    )
    table.add_column("system", overflow="fold")
    for leg in COLUMNS:
        table.add_column(leg, justify="right", no_wrap=True)
    for name in ("front", "tokens", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    places = {place.system: place for place in results.front.systems} if results.front else {}
    costs = {cost.system: cost for cost in results.costs}
    for system in results.systems:
        legs = [results.leg(system.name, leg) for leg in COLUMNS]
        place, cost = places.get(system.name), costs.get(system.name)
        table.add_row(
            printable(system.name) + ("\n(reference)" if system.name == results.reference else ""),
            *[estimate_text(leg.estimate, lines=True) if leg else "–" for leg in legs],
            f"{place.probability:.2f}" if place else "–",
            *_cost_texts(cost),
        )
    console.print(table)
    console.print(
        f"{results.level:.0%} intervals. front: probability to be on the Pareto front (bootstrap); "
        "tokens: through the model, an answer; seconds: an answer alone" + _said_of_multiples(results)
    )
    for comparison in results.comparisons:
        if comparison.verdict in ("better", "worse"):
            console.print(
                f"{printable(comparison.system)} is {comparison.verdict} than "
                f"{printable(comparison.baseline)} on {comparison.leg}: "
                f"{estimate_text(comparison.difference, signed=True)}"
            )
    tied = sum(comparison.verdict == "statistically tied" for comparison in results.comparisons)
    if tied:
        console.print(f"{tied} of {len(results.comparisons)} comparisons are statistically tied")
    for failed in results.failed:
        console.print(f"failed: {printable(failed.step)}: {printable(failed.error)}")
        if failed.fix:
            console.print(f"  → {printable(failed.fix)}")
    for warning in results.warnings[:NOTES]:
        console.print(f"note: {printable(warning)}")
    if len(results.warnings) > NOTES:
        console.print(f"{len(results.warnings) - NOTES} more notes are in the report")


def _cost_texts(costs: Costs | None) -> tuple[str, str]:
    """Forward tokens and seconds of an answer, below each its multiple of greedy decoding's."""
    if costs is None:
        return "–", "–"
    seconds = costs.latency_seconds.value if costs.latency_seconds else None
    texts = [
        "–" if costs.forward_tokens is None else f"{costs.forward_tokens:.0f}",
        "–" if seconds is None else f"{seconds:.1f}",
    ]
    if costs.multiplier is not None and costs.multiplier.base != costs.system:
        multiples = (costs.multiplier.forward_tokens.value, costs.multiplier.seconds.value)
        for place, value in enumerate(multiples):
            if value is not None:
                texts[place] += f"\n{value:.2f}×" if value < 10 else f"\n{value:,.0f}×"
    return texts[0], texts[1]


def _said_of_multiples(results: StudyResults) -> str:
    found = [costs.multiplier for costs in results.costs if costs.multiplier is not None]
    bases = list(dict.fromkeys(entry.base for entry in found if entry.base is not None))
    if bases:
        return f"; ×: of greedy decoding ({', '.join(map(printable, bases))}), on the same prompts"
    return "; no multiple of greedy decoding: no system decodes the same model plainly" if found else ""


def print_diff(diff: StudyDiff, console: Console) -> None:
    """One row a leg: before, after, the change and whether it is beyond the interval."""
    table = Table(box=None, pad_edge=False)
    for name in ("system", "leg", "earlier", "later", "change", ""):
        table.add_column(name, overflow="fold")
    for row in diff.changes:
        table.add_row(
            printable(row.system),
            row.leg,
            estimate_text(row.earlier),
            estimate_text(row.later),
            estimate_text(row.difference, signed=True),
            row.change,
        )
    console.print(table)
    for what, names in (("earlier", diff.only_earlier), ("later", diff.only_later)):
        if names:
            console.print(f"only in the {what} study: {printable(', '.join(names))}")
    for note in diff.notes:
        console.print(f"note: {printable(note)}")


def duration(seconds: float) -> str:
    """Seconds in words: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate_text(estimate: Estimate, *, signed: bool = False, lines: bool = False) -> str:
    """A number with its interval, behind it or on a line of its own."""
    if estimate.value is None:
        return "no score"
    sign = "+" if signed else ""
    text = f"{estimate.value:{sign}.2f}"
    if estimate.interval is not None:
        low, high = estimate.interval.low, estimate.interval.high
        text += f"\n{low:.2f}–{high:.2f}" if lines else f" [{low:{sign}.2f}, {high:{sign}.2f}]"
    return text
