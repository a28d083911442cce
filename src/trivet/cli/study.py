"""``trivet study``: compare systems; plan, run, show, diff."""

import sys
from pathlib import Path

import click

from trivet.cli._output import console, print_json

_study = click.argument("study", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_minutes = click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Choose prompts and max_tokens to fit."
)


def _store(study: Path, store: Path | None) -> Path:
    """Where the results lie unless it is said: beside the study file, in a folder of its name."""
    return store if store is not None else study.parent / "store"


_store_option = click.option(
    "--store", type=click.Path(path_type=Path), help="Folder of the results; by default store/ beside STUDY."
)


@click.group("study")
def command() -> None:
    """Compare systems: measured alike, on the same prompts, with intervals.

    \b
    Examples:
      trivet study plan study.yaml
      trivet study run study.yaml --store results
      trivet study run examples/quickstart.yaml --store quickstart --minutes 10
      trivet study diff last-week this-week
    """


_grader = click.option(
    "--grader", multiple=True, help="Model for the role `grader`; given several times, a panel."
)


@command.command("plan")
@_study
@_store_option
@_minutes
@_grader
@_json
def plan(
    study: Path, store: Path | None, minutes: float | None, grader: tuple[str, ...], as_json: bool
) -> None:
    """Show the steps of a study with their estimates.

    The speed of this machine is measured on a few prompts, whose answers are kept for the run. Checkpoints
    that a merge makes are made for that, and kept too. Nothing is trained: a system that needs training
    which is not done yet is listed, and its speed is not known.

    \b
    Examples:
      trivet study plan study.yaml --minutes 30
      trivet study plan study.yaml --json
    """
    from trivet.study.driver import plan_study
    from trivet.study.show import print_plan

    made = plan_study(
        study, _store(study, store), minutes=minutes, grader=grader, console=console(stderr=True)
    )
    if as_json:
        print_json(made.as_json())
    else:
        print_plan(made, console())


@command.command("run")
@_study
@_store_option
@_minutes
@_grader
@click.option("--quiet", is_flag=True, help="No progress and no table.")
@_json
def run(
    study: Path,
    store: Path | None,
    minutes: float | None,
    grader: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Run what is not finished yet, and write report.html.

    Interrupted at any instant, the same command goes on; run again, a finished study changes nothing. The
    exit code is 1 where a step failed; the report then shows what failed, why, and what mends it.

    \b
    Examples:
      trivet study run study.yaml --store results
      trivet study run examples/quickstart.yaml --store quickstart --minutes 10
      trivet study run study.yaml --grader openai/gpt-5-mini
    """
    from trivet.study.driver import run_study
    from trivet.study.show import print_results

    outcome = run_study(
        study,
        _store(study, store),
        minutes=minutes,
        grader=grader,
        console=console(stderr=True),
        show=not quiet,
    )
    if as_json:
        print_json(outcome.results.to_json())
    elif not quiet:
        print_results(outcome.results, console())
    if not as_json:
        click.echo(str(outcome.report))
    sys.exit(1 if outcome.results.failed else 0)


@command.command("show")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--study", "name", help="Which study, where the store holds several; by default the latest.")
@_json
def show(store: Path, name: str | None, as_json: bool) -> None:
    """Print the table of a finished study.

    \b
    Example:
      trivet study show quickstart
    """
    from trivet.study.show import latest_results, print_results

    results = latest_results(store, name)
    if as_json:
        print_json(results.to_json())
    else:
        print_results(results, console())


@command.command("diff")
@click.argument("earlier", type=click.Path(path_type=Path))
@click.argument("later", type=click.Path(path_type=Path))
@_json
def diff(earlier: Path, later: Path, as_json: bool) -> None:
    """Compare two studies, leg by leg; exit code 1 where a leg of the later one fell beyond its interval.

    EARLIER and LATER are stores, or results.json files.

    \b
    Example:
      trivet study diff last-week this-week
    """
    from trivet.study.diff import diff_studies
    from trivet.study.show import print_diff, read_results

    found = diff_studies(read_results(earlier), read_results(later))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_diff(found, console())
    sys.exit(1 if found.fell else 0)
