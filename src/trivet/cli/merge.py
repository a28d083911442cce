"""``trivet merge``: one checkpoint from several, by a recipe."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from trivet.merge.cost import Cost


class RecipeOrCommand(click.Group):
    """``trivet merge RECIPE OUT`` without naming the command that runs a recipe."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` before anything that is not a command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("merge", cls=RecipeOrCommand)
def command() -> None:
    """Merge checkpoints by a recipe: mergekit's YAML, and adapters as they are.

    \b
    Examples:
      trivet merge recipe.yaml merged --plan          reads, writes, memory and time, before anything starts
      trivet merge recipe.yaml merged                 a Hugging Face folder with a report and a model card
      trivet merge search search.yaml --store found   look for weights by what a study measures
      trivet methods merge                            what merge_method may be
    """


@command.command("run")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--plan", "only_plan", is_flag=True, help="Print what it would cost, and stop.")
@click.option(
    "--shard-size", type=float, default=5.0, show_default=True, help="Gigabytes of one weights file, at most."
)
@click.option("--threads", type=click.IntRange(1, 256), help="Tensors under way at once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(
    recipe: Path, out: Path | None, only_plan: bool, shard_size: float, threads: int | None, as_json: bool
) -> None:
    """Merge by RECIPE into the new folder OUT.

    Interrupted, also by a kill, the same command goes on with the first weights file that is not finished.
    """
    if not shard_size > 0:
        raise click.BadParameter("must be larger than 0", param_hint="--shard-size")
    shard_bytes = max(1, int(shard_size * 1e9))
    if only_plan:
        _print_plan(recipe, shard_bytes, threads, as_json)
        return
    if out is None:
        raise click.UsageError("name the folder to make: trivet merge RECIPE OUT")
    from trivet.merge.checkpoint import merge_checkpoints

    with _Progress(show=not as_json and sys.stderr.isatty()) as progress:
        made = merge_checkpoints(
            recipe, out, shard_bytes=shard_bytes, threads=threads, on_bytes=progress.written
        )
    report = made.report
    warnings = [] if report is None else report.warnings + _of_tensors(report)
    if as_json:
        facts = {} if report is None else {"seconds": report.seconds, "bytes_written": report.bytes_written}
        click.echo(
            json.dumps({"folder": str(out), "made": report is not None, "warnings": warnings, **facts})
        )
        return
    for warning in warnings[:10]:
        click.echo(f"note: {_printable(warning)}", err=True)
    if len(warnings) > 10:
        click.echo(f"note: and {len(warnings) - 10} more in {out}/merge_report.html", err=True)
    if report is None:
        click.echo(f"{out} holds this merge already")
    else:
        click.echo(f"{out}  ({report.bytes_written / 1e9:.2f} GB in {report.seconds:.1f} s)")


@command.command("search")
@click.argument("search", type=click.Path(path_type=Path))
@click.option(
    "--store", type=click.Path(path_type=Path), help="Folder of the results; by default store/ beside SEARCH."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(search: Path, store: Path | None, as_json: bool) -> None:
    """Look for the weights of a merge by what a study measures; ends with the Pareto set.

    SEARCH names a recipe, the weights to try (a grid, or Optuna's TPE) and the evaluations. Every candidate
    is merged into one running model and none is written to disk. Interrupted, the same command goes on;
    finished trials are never repeated. The recipes of the Pareto set lie in STORE/searches/.

    \b
    Examples:
      trivet merge search search.yaml --store found
      trivet merge found/searches/search/trial-4.yaml merged
    """
    from trivet.cli._output import console, print_json
    from trivet.study.merge_search import FOLDER, search_merge
    from trivet.study.merge_show import print_search

    place = store if store is not None else search.parent / "store"
    results = search_merge(search, place, console=console(stderr=True), show=not as_json)
    if as_json:
        print_json(results.model_dump(mode="json"))
    else:
        print_search(results, place / FOLDER, console())


def _of_tensors(report: Any) -> list[str]:
    return [f"{tensor.name}: {text}" for tensor in report.tensors for text in tensor.warnings]


def _printable(text: str) -> str:
    from trivet._text import printable

    return printable(text)


def _print_plan(recipe: Path, shard_bytes: int, threads: int | None, as_json: bool) -> None:
    from trivet.merge.checkpoint import open_merge
    from trivet.merge.cost import estimate

    merge, _ = open_merge(recipe, shard_bytes=shard_bytes)
    try:
        cost = estimate(merge, threads=threads)
    finally:
        merge.sources.close()
    if as_json:
        click.echo(json.dumps(cost.as_json()))
    else:
        _show(cost)
    for note in merge.layout.notes:
        click.echo(f"note: {_printable(note)}", err=True)


def _show(cost: "Cost") -> None:
    rows = (
        ("method", cost.method),
        ("models", str(cost.models)),
        ("tensors", str(cost.tensors)),
        ("files", str(cost.files)),
        ("reads", f"{cost.bytes_read / 1e9:.2f} GB"),
        ("writes", f"{cost.bytes_written / 1e9:.2f} GB"),
        ("memory", f"about {cost.memory_bytes / 1e6:.0f} MB"),
        ("time", f"about {cost.seconds:.0f} s" if cost.seconds >= 1 else "under 1 s"),
    )
    for name, value in rows:
        click.echo(f"{name:9}{value}")


class _Progress:
    """A line with the megabytes written so far."""

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "_Progress":
        if self._show:
            from rich.console import Console
            from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

            columns = (SpinnerColumn(), TextColumn("merging"), DownloadColumn(), TransferSpeedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("merging", total=None)
        return self

    def written(self, count: int) -> None:
        """``count`` bytes are written."""
        if self._bar is not None:
            self._bar.update(self._task, completed=count)

    def __exit__(self, *problem: object) -> None:
        if self._bar is not None:
            self._bar.stop()
