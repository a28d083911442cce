"""``trivet store``: what a store holds, whether it is whole, and clearing what is not needed."""

import sys
from pathlib import Path

import click

from trivet.cli._output import console, print_json

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("store")
def command() -> None:
    """Look after a store: the folder that holds the finished steps of studies.

    \b
    Examples:
      trivet store ls quickstart
      trivet store verify quickstart
      trivet store gc quickstart --dry-run
    """


@command.command("ls")
@click.argument("store", type=click.Path(path_type=Path))
@_json
def ls(store: Path, as_json: bool) -> None:
    """List the finished steps, oldest first.

    \b
    Example:
      trivet store ls quickstart
    """
    from trivet._text import printable
    from trivet.study.store import Store

    rows = Store(store, create=False).rows()
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("address", "step", "study", "created", "seconds", "kB"):
        table.add_column(name, justify="right" if name in {"seconds", "kB"} else "left")
    for row in rows:
        table.add_row(
            row["address"][:12],
            printable(row["step"]),
            printable(row["study"]),
            row["created"][:19],
            f"{row['seconds']:.1f}",
            f"{row['bytes'] / 1000:.0f}",
        )
    console().print(table)


@command.command("verify")
@click.argument("store", type=click.Path(path_type=Path))
@_json
def verify(store: Path, as_json: bool) -> None:
    """Read every output in full and compare it with its manifest; exit code 1 where something is wrong.

    \b
    Example:
      trivet store verify quickstart
    """
    from trivet.study.store import Store

    opened = Store(store, create=False)
    problems = opened.verify()
    if as_json:
        print_json([{"address": p.address, "what": p.what, "hint": p.hint} for p in problems])
    else:
        for problem in problems:
            console().print(f"{problem.address[:12]}  {problem.what}\n  → {problem.hint}")
        click.echo(f"{len(opened.addresses())} steps, {len(problems)} problems")
    sys.exit(1 if problems else 0)


@command.command("gc")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be removed and remove nothing.")
@_json
def gc(store: Path, dry_run: bool, as_json: bool) -> None:
    """Remove what no study's latest run stands on, and what was left unfinished.

    Interrupted training is kept, and so is training that found no solution, until a later run of its study
    no longer needs it.

    \b
    Example:
      trivet store gc quickstart --dry-run
    """
    from trivet.study.store import Store

    opened = Store(store, create=False)
    if dry_run:
        removed = opened.gc(dry_run=True)
    else:
        with opened.driver():
            removed = opened.gc()
    if as_json:
        print_json([{"name": name, "bytes": size} for name, size in removed])
        return
    for name, size in removed:
        console().print(f"{size / 1000:10.0f} kB  {name}")
    total = sum(size for _, size in removed) / 1e6
    click.echo(f"{len(removed)} {'would be ' if dry_run else ''}removed, {total:.1f} MB")
