"""Helpful: does the answer do what was asked, and is it right?

Two components, each with a score of 1 or 0 for an answer, decided by rules and no model:

- ``instructions``: requests whose fulfilment can be verified; 1 where *every* rule of the row holds. Which
  rules held is in the score's metadata. (The kind of task is that of "Instruction-Following Evaluation for
  Large Language Models", arXiv 2311.07911; rows, rules and wording are our own.)
- ``questions``: short questions with known answers; 1 where an accepted answer is contained as whole words
  and the answer does not say that it does not know.

The leg *helpful* of a study is the unweighted mean of both rates and of 1 − over-refusal.
Cost: one generation for each prompt; scoring costs nothing to speak of.
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
from trivet.judges.answers import mark
from trivet.judges.rules import check, parse_rules

VERSION = 1


class Config(EvaluationConfig):
    """Settings."""

    instructions: str | None = Field(
        "instructions", description="a suite that ships or a file with the same fields; null leaves it out"
    )
    questions: str | None = Field(
        "short_questions",
        description="a suite that ships, a public set or a file with the same fields; null leaves it out",
    )


@method(version=VERSION, takes=("System",), gives=("Log",))
def build(config: Config) -> Task:
    """The Inspect task.

    Raises:
        DataError: no such suite or file, a row lacks a field or has an unknown rule, nothing is left.
    """
    rows: list[dict[str, Any]] = []
    for component, kind, dataset in (
        ("instructions", "instructions", config.instructions),
        ("questions", "short_questions", config.questions),
    ):
        for row in load_rows(dataset, kind) if dataset is not None else ():
            if component == "instructions":
                parse_rules(row["rules"], where=f"{dataset}, row {row['id']!r}")
            rows.append({**row, "component": component, "stratum": f"{component}/{row['category']}"})
    chosen = choose(rows, config.prompts, config.seed)
    location = " + ".join(filter(None, (config.instructions, config.questions)))
    return Task(
        dataset=dataset_of([_sample(row) for row in chosen], "helpful", location),
        scorer=helpful_scorer(),
        viewer=ViewerConfig(trust_content=False),
        version=VERSION,
        metadata={"evaluation": "helpful", "rows": rows_digest(chosen)},
    )


def _sample(row: dict[str, Any]) -> Sample:
    if row["component"] == "instructions":
        return sample(row, "instructions", rules=row["rules"])
    return sample(row, "questions", target=row["answers"], answers=row["answers"])


@task
def helpful(
    prompts: int | list[str] | str | None = None,
    seed: int = 0,
    instructions: str | None = "instructions",
    questions: str | None = "short_questions",
) -> Task:
    """Instructions that rules verify, and short questions with known answers.

    Args:
        prompts: how many of the prompts (a stratified draw), or their ids; by default all.
        seed: of the draw and of the order.
        instructions: a suite that ships, or a file with the same fields; None leaves the component out.
        questions: likewise, or a public set.
    """
    values = {"prompts": prompts, "seed": seed, "instructions": instructions, "questions": questions}
    return build(validate(Config, values, where="helpful"))


@scorer(metrics=[mean(), stderr(cluster="cluster"), label_shares()], name="helpful")
def helpful_scorer() -> Scorer:
    """1 where every rule of an instruction holds, or the question is answered correctly; else 0."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = answer_text(state)
        if answer is None:
            return no_answer(state, judge="rules")
        if state.metadata["component"] == "instructions":
            rows = state.metadata["rules"]
            held = check(parse_rules(rows, where=str(state.sample_id)), answer)
            rules = [{"rule": row["rule"], "holds": holds} for row, holds in zip(rows, held, strict=True)]
            label = "fulfilled" if all(held) else "unfulfilled"
            return scored(state, float(all(held)), label=label, judge="rules", rules=rules)
        marked = mark(answer, state.metadata["answers"], state.input_text)
        return scored(
            state,
            float(marked.label == "correct"),
            label=marked.label,
            judge="short_answer",
            matched=marked.matched,
        )

    return score
