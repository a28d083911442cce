"""What verbs share: machine-readable output and the terminal's console."""

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON on stdout; characters beyond ASCII are escaped, so nothing can reach
    the terminal as a control sequence."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def console(*, stderr: bool = False) -> "Console":
    """A rich console without markup: text of models and files is printed as it is."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)
