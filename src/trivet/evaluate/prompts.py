"""Prompts of the user's own, scored by a judge of the user's choice.

In a study::

    evaluations:
      - prompts: my.jsonl
        judge: harmlessness_head

The score is the judge's value in its own unit, larger meaning more of its objective, with its label where it
gives one; where it could not score, the score says why. Cost: one generation and one verdict for each prompt.
"""

from typing import Any

from inspect_ai import Task, task
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState
from inspect_ai.viewer import ViewerConfig
from pydantic import Field

from trivet._validation import validate
from trivet.catalogue import method
from trivet.data.reading import read_prompts
from trivet.evaluate._samples import EvaluationConfig, choose, dataset_of, rows_digest, sample
from trivet.evaluate._scoring import (
    BatchedJudge,
    answer_text,
    judge_spec,
    judge_text,
    judged_chat,
    label_shares,
    no_answer,
    not_scored,
    scored,
)

VERSION = 1


class Config(EvaluationConfig):
    """Settings."""

    dataset: str = Field(description='a file whose rows have "prompt", and "id" and "category" if wanted')
    judge: str | dict[str, Any] = Field(
        description='name or file of a judge, or a mapping with the key "judge" and its settings'
    )
    name: str = Field("prompts", min_length=1, description="what the evaluation is called")


@method(version=VERSION, takes=("System",), gives=("Log",))
def build(config: Config) -> Task:
    """The Inspect task.

    Raises:
        DataError: no such file, no rows, a row without a prompt; it names file and line.
    """
    chosen = choose(read_prompts(config.dataset), config.prompts, config.seed)
    samples = [sample(row, config.name, fields=row["metadata"]) for row in chosen]
    return Task(
        name=config.name,
        dataset=dataset_of(samples, config.name, config.dataset),
        scorer=prompts_scorer(judge_text(config.judge)),
        viewer=ViewerConfig(trust_content=False),
        version=VERSION,
        metadata={"evaluation": config.name, "rows": rows_digest(chosen)},
    )


@task
def prompts(
    dataset: str,
    judge: str | dict[str, Any],
    name: str = "prompts",
    prompts: int | list[str] | str | None = None,
    seed: int = 0,
) -> Task:
    """Prompts of your own, scored by a judge.

    Args:
        dataset: a .jsonl, .json, .csv or .parquet file whose rows have the field "prompt".
        judge: name of a judge, or a mapping with its settings.
        name: what the evaluation is called.
        prompts: how many of the prompts (a stratified draw), or their ids; by default all.
        seed: of the draw and of the order.
    """
    values = {"dataset": dataset, "judge": judge, "name": name, "prompts": prompts, "seed": seed}
    return build(validate(Config, values, where=name))


@scorer(metrics=[mean(), stderr(cluster="cluster"), label_shares()], name="prompts")
def prompts_scorer(judge: str) -> Scorer:
    """The value that a judge gives the answer.

    Args:
        judge: its name, or a JSON object with its settings, so that a log can rebuild the scorer.
    """
    batched = BatchedJudge(judge_spec(judge))

    async def score(state: TaskState, target: Target) -> Score:
        if answer_text(state) is None:
            return no_answer(state, judge=batched.name)
        verdict = await batched.verdict(judged_chat(state))
        about = {"judge": batched.name, **dict(verdict.metadata)}
        if verdict.value is None:
            return not_scored(state, verdict.reason or "the judge gave no reason", **about)
        return scored(state, verdict.value, label=verdict.label, **about)

    return score
