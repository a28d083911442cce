"""Capability: multiple choice answered by generation, through the whole system.

The question and its lettered choices are one prompt, the answer is free text, and a parser reads the choice
from it (``judges.multiple_choice``). An answer from which no choice can be read counts as wrong, with the
label ``unparsed``, whose share is printed: a system that stops answering in letters has lost something, and
leaving those answers out would reward it. Capability is a column beside the three legs, not a leg.
Cost: one short generation for each question.
"""

from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState
from inspect_ai.viewer import ViewerConfig
from pydantic import Field

from trivet._validation import validate
from trivet.catalogue import method
from trivet.evaluate._samples import EvaluationConfig, choose, dataset_of, load_rows, rows_digest, sample
from trivet.evaluate._scoring import answer_text, label_shares, no_answer, scored
from trivet.judges.multiple_choice import letter, parse_choice

VERSION = 1

INSTRUCTION = "Answer with the letter of the right choice."


class Config(EvaluationConfig):
    """Settings."""

    dataset: str = Field(
        "capability", description="a suite that ships, a public set, or a file with the same fields"
    )


@method(version=VERSION, takes=("System",), gives=("Log",))
def build(config: Config) -> Task:
    """The Inspect task.

    Raises:
        DataError: no such suite or file, a row lacks a field, nothing is left.
    """
    chosen = choose(load_rows(config.dataset, "capability"), config.prompts, config.seed)
    return Task(
        dataset=dataset_of([_sample(row) for row in chosen], "capability", config.dataset),
        scorer=capability_scorer(),
        viewer=ViewerConfig(trust_content=False),
        version=VERSION,
        metadata={"evaluation": "capability", "rows": rows_digest(chosen)},
    )


def _sample(row: dict[str, Any]) -> Sample:
    choices = "\n".join(f"{letter(index)}) {choice}" for index, choice in enumerate(row["choices"]))
    return sample(
        row,
        "capability",
        prompt=f"{row['prompt']}\n\n{choices}\n\n{INSTRUCTION}",
        target=letter(row["answer"]),
        choices=row["choices"],
        choices_text=row["choices"],
        answer=row["answer"],
    )


@task
def capability(
    prompts: int | list[str] | str | None = None, seed: int = 0, dataset: str = "capability"
) -> Task:
    """Multiple choice, answered by generation.

    Args:
        prompts: how many of the prompts (a stratified draw), or their ids; by default all.
        seed: of the draw and of the order.
        dataset: a suite that ships, a public set, or a file with the same fields.
    """
    values = {"prompts": prompts, "seed": seed, "dataset": dataset}
    return build(validate(Config, values, where="capability"))


@scorer(metrics=[mean(), stderr(cluster="cluster"), label_shares()], name="capability")
def capability_scorer() -> Scorer:
    """1 where the right choice is taken; 0 where another one or none can be read."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = answer_text(state)
        if answer is None:
            return no_answer(state, judge="multiple_choice")
        taken = parse_choice(answer, state.metadata["choices_text"])
        right = taken == state.metadata["answer"]
        label = "unparsed" if taken is None else "correct" if right else "wrong"
        result = scored(state, float(right), label=label, judge="multiple_choice")
        result.answer = None if taken is None else letter(taken)
        return result

    return score
