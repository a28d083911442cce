"""A judge as an Inspect scorer, for ``prompts:`` with ``judge:``."""

from typing import Any

import anyio.to_thread
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState

from trivet.models.operations import Chat


@scorer(metrics=[mean()])
def judge_scorer(judge: str | dict[str, Any], base: str | None = None) -> Scorer:
    """Score answers with a judge; its value is the score, and its third state is ``Score.unscored``.

    Args:
        judge: name, path or mapping, as ``trivet.judges.resolve`` takes it.
        base: folder that relative paths refer to.
    """
    from pathlib import Path

    from trivet.judges.resolve import resolve

    resolved = resolve(judge, base=Path(base) if base else None)

    async def score(state: TaskState, target: Target) -> Score:
        chat = chat_of(state)
        verdict = (await anyio.to_thread.run_sync(resolved.score, [chat]))[0]
        metadata = {**verdict.metadata, "judge": resolved.name, "label": verdict.label}
        if verdict.value is None:
            return Score.unscored(reason=verdict.reason, metadata=metadata)
        return Score(value=verdict.value, answer=state.output.completion, metadata=metadata)

    return score


def chat_of(state: TaskState) -> Chat:
    """The conversation as plain messages, without reasoning blocks."""
    return [{"role": message.role, "content": message.text} for message in state.messages]
