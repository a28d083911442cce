"""``trivet train``: a checkpoint or an adapter from a model and data."""

import json
from pathlib import Path
from typing import Any

import click

from trivet._text import printable


@click.command("train")
@click.argument("method")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, method: str, config: Path, out: Path, as_json: bool) -> None:
    """Train by METHOD with the settings in CONFIG into the new folder OUT.

    Interrupted, also by a kill, the same command goes on after the last checkpoint; on a CPU the weights are
    then equal, bit by bit, to those of a run that was never interrupted. Where a method finds no model it
    may give (high_confidence_rlhf), OUT holds its report and no weights, and the exit code is 1.

    \b
    Examples:
      trivet train dpo dpo.yaml harmless       a LoRA adapter, or a checkpoint, with its model card
      trivet train ld_dpo ld_dpo.yaml shorter
      trivet methods --room train              what METHOD may be
      trivet methods show train/dpo            its settings
    """
    from trivet import catalogue

    catalogue.find(f"train/{method}")  # first: it says what to install where training's packages are missing
    from trivet.train.running import train

    say = (lambda text: None) if as_json else (lambda text: click.echo(text, err=True))
    trained = train(method, config, out, say=say)
    metrics = trained.record.get("metrics", {})
    if as_json:
        facts = {"folder": str(out), "made": trained.made, "metrics": metrics}
        click.echo(json.dumps(facts | {"no_solution": trained.no_solution}))
    elif not trained.made:
        click.echo(f"{out} holds this run already")
    elif trained.no_solution is not None:
        click.echo(f"{out}  (no model; {trained.record['seconds']} s)")
    else:
        figures = ", ".join(f"{name} {_shown(value)}" for name, value in metrics.items())
        click.echo(f"{out}  ({trained.record['seconds']} s{'; ' + figures if figures else ''})")
    if trained.no_solution is not None:
        click.echo(printable(trained.no_solution), err=True)
        context.exit(1)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "–".join(map(_shown, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)
