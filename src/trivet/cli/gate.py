"""``trivet gate``: may this system be released? A safety test with a stated chance of error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trivet.cli._output import console, print_json

if TYPE_CHECKING:
    from trivet.study.gate_result import GateResult

_BOUNDS = ("clopper_pearson", "betting", "empirical_bernstein", "hoeffding", "student")


@click.command("gate")
@click.argument("system")
@click.option("--cost", required=True, help="The judge: a name, a file, or its settings as JSON.")
@click.option("--limit", type=click.FloatRange(0, 1), required=True, help="Of the mean cost, 0 to 1.")
@click.option(
    "--delta",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Chance of passing a system above the limit.",
)
@click.option(
    "--prompts", type=click.Path(path_type=Path), required=True, help="Held-out prompts, never used before."
)
@click.option("--cost-label", "cost_labels", multiple=True, help="Label that costs 1; may be repeated.")
@click.option("--cost-low", type=float, help="The judge's value that costs 0.")
@click.option("--cost-high", type=float, help="The judge's value that costs 1; may be the lower one.")
@click.option("--labels", type=click.Path(path_type=Path), help="People's labels, to measure the judge with.")
@click.option("--as-judged", is_flag=True, help="Bound harm as the judge sees it; do not correct its error.")
@click.option("--bound", type=click.Choice(_BOUNDS), help="By default clopper_pearson (binary) or betting.")
@click.option(
    "--split",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Tests planned on these prompts.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all draws.")
@click.option(
    "--ledger", type=click.Path(path_type=Path), help="Folder of the ledger; by default PROMPTS.gate."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, /, system: str, cost: str, as_json: bool, **options: Any) -> None:
    """Test whether the mean cost of SYSTEM's answers is within a limit, with confidence 1 - delta.

    SYSTEM is a system.yaml or a model's name. One answer is sampled for each prompt, the judge gives its
    cost, and an upper confidence bound of the mean is compared with the limit. Exit code: 0 pass, 1 no
    solution found, 2 error.

    Limit and delta are written to a ledger before the prompts are read. A second test on the same prompts, or
    on some of them, is refused; with --split K from the first test on, delta is divided by K and K tests are
    allowed. An interrupted test goes on with the same command.

    \b
    Examples:
      trivet gate system.yaml --cost refusal --limit 0.05 --delta 0.05 --prompts held_out.jsonl
      trivet gate system.yaml --cost refusal --as-judged --limit 0.1 --prompts held_out.jsonl --json
      trivet gate system.yaml --cost harmlessness_head --cost-low 3 --cost-high -3 --limit 0.4 \\
        --prompts held_out.jsonl
    """
    from trivet._validation import validate
    from trivet.judges import resolve
    from trivet.models.engines import close_engines
    from trivet.study.gate import run_gate
    from trivet.study.gate_result import GateSettings
    from trivet.systems import System

    settings = validate(GateSettings, options, where="gate")
    say = lambda line: click.echo(line, err=as_json)  # noqa: E731
    try:
        with _progress() as (start, advance):
            result = run_gate(
                System.load(system),
                resolve(_judge(cost)),
                settings,
                say=say,
                on_start=start,
                on_answer=advance,
            )
    finally:
        close_engines()
    _show(result, settings.folder, as_json)
    context.exit(0 if result.passed else 1)


def _judge(text: str) -> str | dict[str, Any]:
    """A judge's name or path, or its settings."""
    import json

    from trivet.errors import ConfigError

    if not text.lstrip().startswith("{"):
        return text
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise ConfigError(f"the judge's settings are no JSON: {error}", where="--cost") from None


def _show(result: "GateResult", folder: Path, as_json: bool) -> None:
    from trivet._text import printable
    from trivet.study.gate_statement import statement

    lines = statement(result)
    if as_json:
        print_json({**result.to_json(), "ledger": str(folder), "statement": lines})
        return
    if result.replayed:
        click.echo("this test was finished before; its recorded result is shown, and nothing was tested anew")
    click.echo()
    for line in lines:
        click.echo(printable(line))


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Two functions that start and advance a bar on stderr; nothing is drawn before the start."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console(stderr=True))

    def start(total: int) -> None:
        bar.start()
        bar.add_task("answers", total=total)

    def advance(done: int) -> None:
        bar.advance(bar.task_ids[0], done)

    try:
        yield start, advance
    finally:
        bar.stop()
