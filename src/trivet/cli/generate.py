"""``trivet generate``: answers to a file of prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trivet.cli._output import console, print_json
from trivet.cli._systems import EMBEDDED, engine_options, open_system

if TYPE_CHECKING:
    from trivet.systems import Answer, System
    from trivet.systems.answers_file import AnswersFile, Question


@click.command(name="generate")
@click.option(
    "--input", "input_path", required=True, type=click.Path(path_type=Path), help="File of prompts."
)
@click.option(
    "--output",
    "output_path",
    required=True,
    type=click.Path(path_type=Path),
    help="File of answers.",
)
@click.option("--system", default=EMBEDDED, show_default=True, help="system.yaml, or a model's name.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Tokens an answer, at most.")
@click.option("--temperature", type=click.FloatRange(min=0, max=100), help="0 is greedy.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all draws.")
@click.option(
    "--window", type=click.IntRange(1, 1024), default=64, show_default=True, help="Prompts at once."
)
@click.option("--overwrite", is_flag=True, help="Throw away what the output holds.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary for machines.")
@engine_options
def command(
    input_path: Path,
    output_path: Path,
    system: str,
    max_tokens: int | None,
    temperature: float | None,
    seed: int,
    window: int,
    overwrite: bool,
    as_json: bool,
    engine: str | None,
    device: str | None,
    dtype: str | None,
) -> None:
    """Answer every prompt of a file with a system.

    Rows of the input are {"prompt": text} or {"messages": chat}; other fields are kept. An interrupted run
    goes on where it stopped: the same command keeps every finished answer.

    \b
    Examples:
      trivet generate --input prompts.jsonl --output answers.jsonl
      trivet generate --input prompts.jsonl --output careful.jsonl --system examples/systems/constitution.yaml
      trivet generate --input prompts.csv --output out.jsonl --temperature 0.8 --seed 3 --max-tokens 64
    """
    from trivet.systems.answers_file import AnswersFile, read_questions

    questions = read_questions(input_path)
    options: dict[str, Any] = {"max_tokens": max_tokens}
    if temperature is not None:
        options["sampling"] = {"temperature": temperature}
    settings = {"seed": seed, **{key: value for key, value in options.items() if value is not None}}
    with open_system(system, engine, device, dtype) as opened:
        answers = AnswersFile(output_path, system=opened.identity, settings=settings, overwrite=overwrite)
        missing = [question for question in questions if question not in answers]
        try:
            tokens = 0
            if missing:
                tokens = _run(opened, missing, answers, window=window, seed=seed, options=options)
            answers.finish(questions)
        finally:
            answers.close()
        identity = opened.identity
    kept = len(questions) - len(missing)
    if as_json:
        summary = {"answers": len(questions), "kept": kept, "output_tokens": tokens, "system": identity}
        print_json({**summary, "output": str(output_path)})
    else:
        note = f", {kept} of them kept from before" if kept else ""
        text = f"{len(questions)} answers of {identity} in {output_path}{note}"
        console(stderr=True).print(text, soft_wrap=True)


def _run(
    system: "System",
    questions: "list[Question]",
    answers: "AnswersFile",
    *,
    window: int,
    seed: int,
    options: dict[str, Any],
) -> int:
    """Answer with a progress bar; returns the number of tokens."""
    import time

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from trivet.systems.answers_file import answer_all

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    started, tokens = time.perf_counter(), 0
    with Progress(*columns, console=console(stderr=True)) as progress:
        bar = progress.add_task("answers", total=len(questions), speed="")

        def on_answer(question: "Question", answer: "Answer") -> None:
            nonlocal tokens
            answers.add(question, answer)
            tokens += answer.usage.completion_tokens
            speed = tokens / (time.perf_counter() - started)
            progress.update(bar, advance=1, speed=f"{speed:.0f} tokens/s")

        answer_all(system, questions, window=window, seed=seed, options=options, on_answer=on_answer)
    return tokens
