"""Whole answers drawn independently and scored by a judge: what best-of-n and its soft form choose from."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from trivet.models.operations import Continuation, Extend, Judge, Operation, ProgramContext, Scorer

TRACE_TEXT = 80
"""The trace shows so many characters of each candidate."""


@dataclass(frozen=True)
class Candidates:
    """``answers`` and their ``scores`` (``None`` where there is none), and what the trace says of them."""

    answers: list[Continuation]
    scores: list[float | None]
    note: dict[str, Any]


def draw_and_score(
    context: ProgramContext, judge: Scorer, *, n: int, temperature: float
) -> Generator[Operation, Any, Candidates]:
    """Draw ``n`` answers and score them.

    ``temperature`` is that of the draws where the request is greedy: n greedy answers would all be the same.
    """
    temperature = context.sampling.temperature or temperature
    answers: list[Continuation] = yield Extend(
        prefix=context.prompt,
        n=n,
        max_tokens=context.max_tokens,
        sampling=replace(context.sampling, temperature=temperature),
        stop=context.stop,
        top_logprobs=context.top_logprobs,
    )
    chats = tuple(context.answered(context.visible(answer.text)) for answer in answers)
    verdicts = yield Judge(judge, chats)
    scores = [verdict.value for verdict in verdicts]
    note: dict[str, Any] = {
        "n": n,
        "judge": getattr(judge, "name", type(judge).__name__),
        "temperature": temperature,
        "candidates": [],
    }
    for answer, chat, verdict in zip(answers, chats, verdicts, strict=True):
        shown = {
            "text": chat[-1]["content"][:TRACE_TEXT],
            "tokens": len(answer.tokens),
            "score": verdict.value,
        }
        if verdict.value is None:
            shown["unscored"] = verdict.reason
        note["candidates"].append(shown)
    if all(score is None for score in scores):
        note["note"] = "no candidate could be scored; the first one is the answer"
    return Candidates(answers, scores, note)
