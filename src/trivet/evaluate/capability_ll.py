"""Capability by log-likelihood: which choice does the bare model find most likely?

Nothing is generated. The prompt is plain text, ``Question: …\\nAnswer:``, without chat template or system
prompt, and each choice is scored as its continuation. The choice with the largest log-likelihood per byte of
its text is taken (per byte, since longer choices are less likely for no other reason than their length); the
choice by the plain sum is in the score's metadata as ``taken_by_sum``.

This diagnoses the bare model, and is refused for systems with a decoding method or guard, whose answers have
no such probability, and for models of other providers. The log-likelihoods are kept in the log, so scoring
again computes nothing. Cost: one forward pass over question and choices.
"""

from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.viewer import ViewerConfig
from pydantic import Field

from trivet._validation import validate
from trivet.catalogue import method
from trivet.errors import UnsupportedError
from trivet.evaluate._samples import EvaluationConfig, choose, dataset_of, load_rows, rows_digest, sample
from trivet.evaluate._scoring import label_shares, not_scored, scored
from trivet.judges.multiple_choice import letter

VERSION = 1


class Config(EvaluationConfig):
    """Settings."""

    dataset: str = Field(
        "capability", description="a suite that ships, a public set, or a file with the same fields"
    )


@method(version=VERSION, takes=("System",), gives=("Log",), needs=("score",))
def build(config: Config) -> Task:
    """The Inspect task.

    Raises:
        DataError: no such suite or file, a row lacks a field, nothing is left.
    """
    chosen = choose(load_rows(config.dataset, "capability"), config.prompts, config.seed)
    return Task(
        dataset=dataset_of([_sample(row) for row in chosen], "capability_ll", config.dataset),
        solver=score_choices(),
        scorer=capability_ll_scorer(),
        viewer=ViewerConfig(trust_content=False),
        version=VERSION,
        metadata={"evaluation": "capability_ll", "rows": rows_digest(chosen)},
    )


def _sample(row: dict[str, Any]) -> Sample:
    return sample(
        row,
        "capability_ll",
        prompt=f"Question: {row['prompt']}\nAnswer:",
        target=letter(row["answer"]),
        choices=row["choices"],
        choices_text=row["choices"],
        answer=row["answer"],
    )


@task
def capability_ll(
    prompts: int | list[str] | str | None = None, seed: int = 0, dataset: str = "capability"
) -> Task:
    """Multiple choice by the log-likelihood of each choice under the bare model.

    Args:
        prompts: how many of the prompts (a stratified draw), or their ids; by default all.
        seed: of the draw and of the order.
        dataset: a suite that ships, a public set, or a file with the same fields.
    """
    values = {"prompts": prompts, "seed": seed, "dataset": dataset}
    return build(validate(Config, values, where="capability_ll"))


@solver
def score_choices() -> Solver:
    """Ask the model for the log-likelihood of each choice; they lie in the output's metadata."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        log_likelihoods = getattr(model.api, "log_likelihoods", None)
        if log_likelihoods is None:
            raise UnsupportedError(
                f"the model {model} gives no log-likelihoods",
                where="capability_ll",
                hint="use a trivet/ model without decoding method or guard, or the evaluation `capability`",
            )
        choices = state.metadata["choices_text"]
        sums = await log_likelihoods(state.input_text, [f" {choice}" for choice in choices])
        taken = _best([value / len(choice.encode()) for value, choice in zip(sums, choices, strict=True)])
        state.output = ModelOutput.from_content(str(state.model), letter(taken))
        state.output.metadata = {"log_likelihoods": [float(value) for value in sums]}
        state.messages.append(state.output.message)
        return state

    return solve


def _best(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


@scorer(metrics=[mean(), stderr(cluster="cluster"), label_shares()], name="capability_ll")
def capability_ll_scorer() -> Scorer:
    """1 where the right choice has the largest log-likelihood per byte, else 0."""

    async def score(state: TaskState, target: Target) -> Score:
        sums = (state.output.metadata or {}).get("log_likelihoods")
        if not sums:
            return not_scored(state, "no log-likelihoods were computed", judge="log_likelihood")
        choices = state.metadata["choices_text"]
        taken = _best([value / len(choice.encode()) for value, choice in zip(sums, choices, strict=True)])
        right = taken == state.metadata["answer"]
        result = scored(
            state,
            float(right),
            label="correct" if right else "wrong",
            judge="log_likelihood",
            taken_by_sum=letter(_best(sums)),
        )
        result.answer = letter(taken)
        return result

    return score
