"""A search for the weights of a merge, in the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from trivet._text import printable
from trivet.study.merge_trials import SearchResults, Trial
from trivet.study.results import COLUMNS
from trivet.study.show import estimate_text


def print_search(results: SearchResults, folder: Path, console: Console) -> None:
    """One row a trial: its weights, its legs with intervals, what an answer costs, whether it is in the
    Pareto set; then what has to be said, and how the winners are merged.

    Args:
        folder: where the searches of the store lie.
    """
    table = Table(box=None, pad_edge=False, title=printable(results.name), title_justify="left")
    table.add_column("trial")
    table.add_column("weights", justify="right")
    legs = [leg for leg in COLUMNS if any(row.leg == leg for trial in results.trials for row in trial.legs)]
    for name in (*legs, "tokens", "Pareto set"):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in results.trials:
        table.add_row(*_row(trial, legs, trial.name in results.pareto))
    console.print(table)
    for number, expert in enumerate(results.experts, 1):
        console.print(f"weight {number}: {printable(expert)}")
    console.print(f"reference: {printable(results.reference)} alone")
    asked = ", ".join(f"{name} {count}" for name, count in results.prompts.items())
    console.print(f"95% intervals. tokens: through the model, an answer. Prompts: {printable(asked)}")
    console.print(f"Pareto set over {', '.join(results.axes)}: {', '.join(results.pareto)}")
    for trial in results.trials:
        if trial.failure is not None:
            console.print(f"failed: {trial.name}: {printable(trial.failure)}")
    for note in results.notes:
        console.print(f"note: {printable(note)}")
    for name in results.recipes:
        console.print(f"trivet merge {folder / results.name / name}.yaml OUT", soft_wrap=True)


def _row(trial: Trial, legs: list[str], best: bool) -> list[str]:
    estimates = {row.leg: row.estimate for row in trial.legs}
    cost = trial.costs.forward_tokens if trial.costs is not None else None
    return [
        trial.name,
        " ".join(f"{weight:.3g}" for weight in trial.weights) or "–",
        *[estimate_text(estimates[leg], lines=True) if leg in estimates else "–" for leg in legs],
        f"{cost:.0f}" if cost is not None else "–",
        "yes" if best else "",
    ]
