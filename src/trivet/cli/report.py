"""``trivet report``: build a study's report anew, or print its numbers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trivet.cli._output import print_json

if TYPE_CHECKING:
    from trivet.study.store import Store


@click.command(short_help="Build a study's report.html anew.")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--study", "name", help="Which study of the store; by default the one that ran last.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON and write nothing.")
def command(store: Path, name: str | None, output: Path | None, as_json: bool) -> None:
    """Build report.html anew from the results in STORE; nothing is generated or scored again.

    STORE may also be a folder that holds results.json and transcripts.jsonl.

    \b
    Examples:
      trivet report quickstart
      trivet report runs --study my-comparison --output comparison.html
      trivet report quickstart --json > numbers.json
    """
    from trivet.study.report import REPORT, RESULTS, write_report
    from trivet.study.results import StudyResults

    folder = _results_folder(store, name)
    if as_json:
        print_json(StudyResults.read(folder / RESULTS).to_json())
        return
    if output is None:
        output = store / (REPORT if name is None else f"report-{name}.html")
    click.echo(str(write_report(folder, output)))


def _results_folder(path: Path, name: str | None) -> Path:
    """Where the wanted study's results lie: in its object of the store, or in a plain folder."""
    from trivet.errors import StoreError
    from trivet.study.report import RESULTS
    from trivet.study.store import Store

    if not (path / "store.json").is_file():
        if name is None and (path / RESULTS).is_file():
            return path
        Store(path, create=False)  # says what is wrong with the folder
    store = Store(path, create=False)
    address = _results_address(store, name)
    if store.find(address) is None:
        raise StoreError(
            "the results of the study are missing or damaged",
            where=str(store.folder(address)),
            hint="`trivet study run` makes them again; finished steps are kept",
        )
    return store.folder(address)


def _results_address(store: "Store", name: str | None) -> str:
    from trivet._validation import did_you_mean
    from trivet.errors import StoreError

    records: dict[str, dict[str, Any]] = {
        study: record for study, record in store.studies().items() if record.get("results")
    }
    if not records:
        raise StoreError(
            "holds no finished study", where=str(store.path), hint="`trivet study run` makes one"
        )
    if name is None:
        name = max(records, key=lambda study: str(records[study].get("finished", "")))
    if name not in records:
        raise StoreError(
            f"holds no finished study {name!r}", where=str(store.path), hint=did_you_mean(name, records)
        )
    return str(records[name]["results"])
