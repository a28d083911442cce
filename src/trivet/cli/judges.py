"""``trivet judges``: which judges there are, how good they are, fitting and calibrating them."""

from pathlib import Path
from typing import Any

import click

from trivet.cli._output import console, print_json

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_output = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write."
)
_seed = click.option("--seed", type=click.IntRange(0), default=0, show_default=True)


@click.group("judges")
def command() -> None:
    """Judges score answers. See how good they are, fit new ones, measure them against people's labels.

    \b
    Examples:
      trivet judges list
      trivet judges show refusal
      trivet judges sample quickstart -n 100 -o labels.csv
      trivet judges calibrate refusal --labels labels.csv
    """


@command.command("list")
@_json
def list_judges(as_json: bool) -> None:
    """Name every judge, with one line on it.

    \b
    Example:
      trivet judges list
    """
    from trivet.judges.resolve import names

    known = names()
    if as_json:
        print_json(known)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, summary in known.items():
        table.add_row(name, summary)
    console().print(table)


@command.command("show")
@click.argument("judge")
@_json
def show(judge: str, as_json: bool) -> None:
    """Show what JUDGE (a name, a file, or a folder with a reward model) is, and its measured quality.

    \b
    Examples:
      trivet judges show refusal
      trivet judges show runs/reward
      trivet judges show my_head.safetensors --json
    """
    from trivet.judges.resolve import KINDS, resolve

    if judge == "grader":  # it needs a model before it is a judge
        about: dict[str, Any] = {"name": judge, "summary": KINDS[judge].summary}
    else:
        found = resolve(judge)
        about = {
            "name": found.name,
            "objective": found.objective,
            "identity": found.identity,
            "training_prompts": len(found.training_prompts),
            "quality": found.quality,
        }
    if as_json:
        print_json(about)
        return
    for key, value in about.items():
        if key != "quality":
            click.echo(f"{key}: {value}")
    card = _card(found) if judge != "grader" else None
    if card is not None and card.is_file():
        from trivet._text import printable

        click.echo()
        click.echo(printable(card.read_text(encoding="utf-8")))


def _card(judge: Any) -> Path | None:
    """Where the card of a fitted or trained judge lies."""
    if hasattr(judge, "folder"):
        return Path(judge.folder) / "README.md"
    return judge.path.with_suffix(".md") if hasattr(judge, "path") else None


@command.group("fit")
def fit() -> None:
    """Fit a judge on real data, measure it on held-out data, and write it with its card.

    \b
    Data is a file (.jsonl, .csv, .parquet) or a public set: NAME/SPLIT:FOLDER, or NAME/SPLIT from the hub.
    """


@fit.command("refusal")
@click.option("--labels", required=True, help="Answers labelled full_refusal, partial_refusal, compliance.")
@click.option("--exchanges", multiple=True, help="Real prompts and answers, for the off-topic part.")
@click.option("--held-out-exchanges", multiple=True, help="The same, for measuring.")
@click.option("--limit", type=click.IntRange(1), help="Exchanges used of each set, a seeded draw.")
@_output
@_seed
@_json
def fit_refusal_command(
    labels: str,
    exchanges: tuple[str, ...],
    held_out_exchanges: tuple[str, ...],
    limit: int | None,
    output: Path,
    seed: int,
    as_json: bool,
) -> None:
    """Fit the classifier of refusals on labelled answers; prompts are split into fitting and measuring.

    \b
    Example:
      trivet judges fit refusal --labels xstest_completions:data/xstest-completions \\
        --exchanges hh_single_turn/train_w2s:data/hh --held-out-exchanges hh_single_turn/test:data/hh \\
        --limit 3000 -o refusal.safetensors
    """
    from trivet.judges import material
    from trivet.judges.cards import shown, write_refusal
    from trivet.judges.refusal_fit import FitConfig, draw, fit_refusal

    labelled = material.labelled_answers(labels)
    real = [material.exchanges(reference) for reference in exchanges]
    held_out = [material.exchanges(reference) for reference in held_out_exchanges]
    config = FitConfig(seed=seed)
    fitted = fit_refusal(
        labelled.rows,
        [pair for part in real for pair in draw(part.rows, limit, seed)],
        [pair for part in held_out for pair in draw(part.rows, limit, seed)],
        config,
        progress=lambda what: click.echo(what, err=True),
    )
    write_refusal(_named(output), fitted, config, labels=labelled, exchanges=[*real, *held_out])
    gain, low, high = fitted.gain
    if as_json:
        from trivet.judges.resolve import resolve

        print_json({"path": str(_named(output)), "quality": resolve(_named(output)).quality})
        return
    click.echo(f"kappa on held-out prompts: {shown(fitted.calibration.kappa)}")
    click.echo(f"string match: {shown(fitted.baseline.kappa)}")
    click.echo(f"difference: {gain:.3f} (95% interval {low:.3f} to {high:.3f})")
    click.echo(f"wrote {_named(output)} and its card {_named(output).with_suffix('.md')}")


@fit.command("head")
@click.option("--pairs", required=True, multiple=True, help="Preference pairs: prompt, chosen, rejected.")
@click.option("--test", help="Pairs to measure the accuracy on.")
@click.option("--test-limit", type=click.IntRange(20), help="Pairs of these, a seeded draw.")
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--objective", default="harmlessness", show_default=True, help="What the chosen answers have.")
@click.option("--layer", type=click.IntRange(0), default=18, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True, help="Of an answer.")
@click.option("--limit", type=click.IntRange(20), help="Pairs to fit on, a seeded draw.")
@_output
@_seed
@_json
def fit_head_command(
    pairs: tuple[str, ...],
    test: str | None,
    test_limit: int | None,
    model: str,
    objective: str,
    layer: int,
    max_tokens: int,
    limit: int | None,
    output: Path,
    seed: int,
    as_json: bool,
) -> None:
    """Fit a linear head on a model's hidden states from preference pairs.

    Hidden states are kept in the cache: a refit on the same pairs is quick, and an interrupted fit goes on.

    \b
    Examples:
      trivet judges fit head --pairs hh_single_turn/train:data/hh --test hh_single_turn/test:data/hh \\
        --limit 3000 -o harmlessness_head.safetensors
      trivet judges fit head --pairs my_pairs.jsonl --objective helpfulness -o helpfulness_head.safetensors
    """
    from trivet.judges import material
    from trivet.judges.cards import head_card, shown
    from trivet.judges.head import write_head
    from trivet.judges.head_fit import FitConfig, fit_head
    from trivet.judges.refusal_fit import draw

    given = [material.preference_pairs(reference) for reference in pairs]
    measured = None if test is None else material.preference_pairs(test)
    config = FitConfig(
        model=model, objective=objective, layer=layer, max_tokens=max_tokens, limit=limit, seed=seed
    )
    with _progress() as progress:
        fitted = fit_head(
            [row for part in given for row in part.rows],
            config,
            test=[] if measured is None else draw(measured.rows, test_limit, seed + 1),
            progress=progress,
        )
    population = "no held-out pairs" if measured is None else f"held-out pairs of {measured.title}"
    card = head_card(fitted, training=given, test=measured)
    write_head(_named(output), fitted, population=population, card=card)
    if as_json:
        from trivet.judges.resolve import resolve

        print_json({"path": str(_named(output)), "quality": resolve(_named(output)).quality})
        return
    if fitted.held_out is not None:
        click.echo(f"accuracy on held-out pairs: {shown(fitted.held_out)}")
    click.echo(f"cross-validated accuracy: {fitted.cross_validated:.3f} on {fitted.pairs} pairs")
    click.echo(f"wrote {_named(output)} and its card {_named(output).with_suffix('.md')}")


@command.command("calibrate")
@click.argument("judge")
@click.option("--labels", required=True, help="A file with prompt, answer, label, system; or a public set.")
@click.option("--threshold", type=float, help="For a judge that gives values: from here on it is POSITIVE.")
@click.option("--positive", help="The label that has the judge's objective.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the quality as JSON.")
@_seed
@_json
def calibrate_command(
    judge: str,
    labels: str,
    threshold: float | None,
    positive: str | None,
    output: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure JUDGE against people's labels: kappa, sensitivity, specificity, errors by system.

    LABELS may be the file that `trivet judges sample` wrote, once its label column is filled in; rows
    without a label are skipped and counted. A study that names the file, `labels: {JUDGE: labels.csv}`,
    corrects its rates with the error measured on its own systems, and its report says so.

    \b
    Examples:
      trivet judges calibrate refusal --labels labels.csv
      trivet judges calibrate refusal --labels xstest_completions:data/xstest-completions
      trivet judges calibrate my_head.safetensors --labels rated.csv --threshold 0 --positive harmless
    """
    from trivet._files import write_json
    from trivet.judges.blind_sample import labels_and_population
    from trivet.judges.calibration import calibrate
    from trivet.judges.cards import calibration_lines
    from trivet.judges.resolve import resolve

    rows, population, skipped = labels_and_population(labels)
    found = calibrate(resolve(judge), rows, threshold=threshold, positive=positive, seed=seed)
    quality = {
        **found.quality(population),
        "unlabelled": skipped,
        "errors_by_system": {name: list(counts) for name, counts in found.errors.items()},
        "systems_differ_p": found.systems_p,
    }
    if output is not None:
        write_json(output, quality)
    if as_json:
        print_json(quality)
        return
    from trivet._text import printable

    for line in [f"population: {population}", *calibration_lines(found)]:
        click.echo(printable(line))
    if skipped:
        click.echo(f"{skipped} rows have no label and were skipped")


@command.command("sample")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("-n", "--number", type=click.IntRange(1), default=100, show_default=True, help="Answers.")
@click.option("--evaluation", multiple=True, help="Only of these; by default harmless and over_refusal.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("labels.csv"), show_default=True
)
@_seed
def sample(study: Path, number: int, evaluation: tuple[str, ...], output: Path, seed: int) -> None:
    """Write answers of a study to a CSV file for people to label, blind to whose they are.

    STUDY is the store of a study, or a folder of its logs. Every system gives equally many answers. The key
    (which row is whose) goes to a file beside, FILE.key.json: keep it from those who label, and beside the
    CSV for `trivet judges calibrate`.

    \b
    Example:
      trivet judges sample quickstart -n 100 -o labels.csv
    """
    from trivet.judges.blind_sample import key_path, logged_answers, write_sample

    written = write_sample(logged_answers(study, evaluation), number, output, seed=seed)
    click.echo(f"wrote {written} answers to {output}, the key to {key_path(output)}")


def _named(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def _progress() -> Any:
    """A context manager that gives ``progress(what, done, total)``, drawn on stderr."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def drawn() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console(stderr=True)) as bars:
            tasks: dict[str, Any] = {}

            def report(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], completed=done)

            yield report

    return drawn()
