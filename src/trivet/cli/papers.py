"""``trivet papers``: what is known, and what runs here."""

import textwrap
from typing import TYPE_CHECKING, Any

import click

from trivet.cli._output import console, print_json

if TYPE_CHECKING:
    from trivet.catalogue.papers import Paper


@click.command(short_help="Search the papers behind the methods.")
@click.argument("words", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Search titles and summaries of the papers; a single hit is shown as a card.

    WORDS may also be the number of a paper or its arXiv id.

    \b
    Examples:
      trivet papers                 all of them
      trivet papers honesty         those about honesty
      trivet papers 21              one card, with our figure beside the claim
      trivet papers 2402.06147      the same by arXiv id
    """
    from trivet.catalogue.papers import search
    from trivet.errors import ConfigError

    found = search(words)
    if as_json:
        print_json([_as_data(paper) for paper in found])
        return
    if not found:
        raise ConfigError(
            f"no paper matches {' '.join(words)!r}", hint="`trivet papers` without words lists them all"
        )
    if len(found) == 1:
        _print_card(found[0])
    else:
        _print_table(found)


def _as_data(paper: "Paper") -> dict[str, Any]:
    from trivet.catalogue.papers import missing_methods, our_figure, status

    figure = our_figure(paper.number)
    return {
        **paper.model_dump(mode="json"),
        "url": paper.url,
        "status": status(paper),
        "missing_methods": list(missing_methods(paper)),
        "our_figure": figure.model_dump(mode="json") if figure else None,
    }


def _print_table(found: "list[Paper]") -> None:
    from rich import box
    from rich.table import Table

    from trivet.catalogue.papers import status

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("No", justify="right")
    table.add_column("Title")
    table.add_column("arXiv", no_wrap=True)
    table.add_column("Stage", no_wrap=True)
    table.add_column("Status", no_wrap=True)
    for paper in found:
        state = status(paper)
        style = "bold" if state == "works" else None
        table.add_row(str(paper.number), paper.title, paper.arxiv, paper.stage, state, style=style)
    out = console()
    out.print(table)
    working = sum(status(paper) == "works" for paper in found)
    out.print(f"{len(found)} papers, {working} working here. One card: trivet papers NUMBER", style="dim")


def _print_card(paper: "Paper") -> None:
    from trivet.catalogue.papers import missing_methods, our_figure, status

    out = console()
    width = min(out.width, 96)
    indent = " " * 12

    def field(label: str, text: str) -> None:
        wrapped = textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)
        out.print(f"{label:<12}{wrapped[12:]}", soft_wrap=True)

    out.print(textwrap.fill(f"{paper.number}. {paper.title}", width), style="bold")
    out.print()
    field("Paper", f"{paper.url}  ({paper.date.isoformat()})")
    field("Stage", paper.stage)
    field("Status", status(paper))
    field("Brings", paper.summary)
    out.print()
    basis = {
        "abstract": "as in the abstract",
        "paper": "as in the paper or its released files",
        "secondary": "by another's account, not checked in the paper",
    }[paper.basis]
    field("Claim", f"{paper.claim} ({basis})")
    figure = our_figure(paper.number)
    if figure is None:
        field("Ours", "not measured yet")
    else:
        field("Ours", f"{figure.figure} ({figure.setting}; {figure.date.isoformat()})")
        field("", f"again: {figure.command}")
    out.print()
    missing = set(missing_methods(paper))
    field("Methods", ", ".join(f"{name} (planned)" if name in missing else name for name in paper.methods))
