"""``trivet methods``: the registry, and what each method can be set to."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from trivet.cli._output import console, print_json

if TYPE_CHECKING:
    from trivet.catalogue import Method


@click.group(invoke_without_command=True, short_help="List the methods and their settings.")
@click.option("--room", help="Only those of one room: decode, evaluate, merge, ...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, room: str | None, as_json: bool) -> None:
    """List the methods that exist, with what each one does.

    \b
    Examples:
      trivet methods
      trivet methods --room decode
      trivet methods show decode/best_of_n
    """
    if context.invoked_subcommand is not None:
        return
    from trivet._validation import did_you_mean
    from trivet.catalogue import names, skipped
    from trivet.catalogue.describe import first_sentence
    from trivet.catalogue.registry import ROOMS
    from trivet.errors import ConfigError

    if room is not None and room not in ROOMS:
        raise ConfigError(f"unknown room {room!r}", hint=did_you_mean(room, ROOMS))
    found = {name: first_sentence(name) for name in names(room)}
    if as_json:
        print_json([{"name": name, "summary": text} for name, text in found.items()])
        return
    out = console()
    width = max((len(name) for name in found), default=0)
    for name, text in found.items():
        out.print(
            f"{name:<{width}}  {text}", soft_wrap=not out.is_terminal, no_wrap=True, overflow="ellipsis"
        )
    if not found:
        out.print("no method is registered here yet", style="dim")
    for package, hint in skipped().items():
        out.print(f"the plug-in {package} is left out: {hint}", style="yellow")


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show a method's paper, its settings with defaults and bounds, and what it needs of an engine.

    \b
    Example:
      trivet methods show decode/best_of_n
    """
    from trivet.catalogue import find
    from trivet.catalogue.describe import settings

    method = find(name)
    if as_json:
        print_json(_as_data(method))
        return
    import inspect
    import sys

    from rich import box
    from rich.table import Table

    from trivet.catalogue.papers import paper_of

    out = console()
    out.print(f"{method.name}  version {method.version}", style="bold")
    paper = paper_of(method.paper)
    if paper is not None:
        out.print(f"paper {paper.number}: {paper.title} ({paper.url})")
    out.print()
    out.print(inspect.cleandoc(sys.modules[method.module].__doc__ or ""), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("Key", "Type", "Default", "Bounds", "Meaning"):
        table.add_column(column, no_wrap=column == "Key", overflow="fold")
    for setting in settings(method):
        default = "required" if setting.required else json.dumps(setting.default, ensure_ascii=False)
        table.add_row(setting.name, setting.type, default, setting.bounds, setting.description)
    out.print(table)
    for label, values in (("takes", method.takes), ("gives", method.gives), ("needs", method.needs)):
        if values:
            out.print(f"{label}: {', '.join(values)}")


def _as_data(method: "Method") -> dict[str, Any]:
    from trivet.catalogue.describe import settings
    from trivet.catalogue.papers import paper_of

    paper = paper_of(method.paper)
    return {
        "name": method.name,
        "room": method.room,
        "module": method.module,
        "version": method.version,
        "paper": paper.model_dump(mode="json") if paper else method.paper,
        "takes": list(method.takes),
        "gives": list(method.gives),
        "needs": list(method.needs),
        "settings": [dataclasses.asdict(setting) for setting in settings(method)],
    }
