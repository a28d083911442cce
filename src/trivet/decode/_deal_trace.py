"""What the trace of ``deal`` says: where the objectives changed what was kept, what could not be scored."""

from collections.abc import Mapping, Sequence
from typing import Any

from trivet.decode._branches import Branch
from trivet.models.operations import ProgramContext

TRACE_CHOICES = 256
"""The trace shows so many choices of an answer; further ones are counted."""


def record(
    note: dict[str, Any],
    candidates: Sequence[Branch],
    others: Sequence[Branch],
    kept: Sequence[Branch],
    context: ProgramContext,
) -> None:
    """Count a step in the trace, and show its branches where the objectives changed what was kept.

    Args:
        note: the trace of this request.
        candidates: the step's new branches.
        others: branches that were there too: finished ones, and candidates that were given up unseen.
        kept: what goes on.
        context: of the request.
    """
    note["steps"] += 1
    unscored = [branch for branch in candidates if branch.unscored]
    if unscored:
        note["unscored"] = note.get("unscored", 0) + len(unscored)
        reasons = {branch.scored.reason for branch in unscored if branch.scored is not None}
        note["reasons"] = sorted({*note.get("reasons", ()), *map(str, reasons)})[:8]
        if len(unscored) == len(candidates):
            note["unscored_steps"] = note.get("unscored_steps", 0) + 1
            note["note"] = "where no candidate could be scored the likeliest was kept"
    pool = sorted([*candidates, *others], key=lambda branch: branch.logprob, reverse=True)
    chosen = {id(branch) for branch in kept}
    if {id(branch) for branch in pool[: len(kept)]} != chosen:
        if len(note["choices"]) >= TRACE_CHOICES:
            note["choices_left_out"] = note.get("choices_left_out", 0) + 1
            return
        note["choices"].append(
            {
                "step": note["steps"] - 1,
                "chosen": [place for place, branch in enumerate(pool) if id(branch) in chosen],
                "candidates": [_shown(branch, context) for branch in pool],
            }
        )


def _shown(branch: Branch, context: ProgramContext) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "beam": branch.parent,
        "text": "" if branch.ended == "stop" else context.decode(branch.tokens[-1:]),
        "rank": branch.rank,
        "logprob": round(branch.logprob, 4),
        "score": round(branch.score, 4),
        "lookahead": branch.lookahead,
    }
    if branch.ended:
        shown["ended"] = branch.ended
    if branch.dead:
        shown["violates"] = True
    if branch.scored is not None:
        shown["values"] = rounded(branch.scored.values)
        if branch.scored.reason:
            shown["unscored"] = branch.scored.reason
    return shown


def rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in values.items()}
