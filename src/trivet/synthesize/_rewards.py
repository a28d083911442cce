"""The margin of each pair on each objective: score of the chosen answer minus that of the rejected one.

Margins come with the rows, or from judges. A judge that is named for an objective scores every pair, whatever
the rows hold, so that one threshold means one unit. A pair that could not be scored has no margin; it is
never given a zero.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from trivet.data.prompts import prompt_digest
from trivet.errors import ConfigError, DataError
from trivet.judges import Judge
from trivet.judges.resolve import resolve
from trivet.models.operations import Chat
from trivet.synthesize._mixture import UNSCORED, Ledger, by_dimension
from trivet.synthesize._pairs import Messages, Pair

JudgeSpecs = dict[str, str | dict[str, Any]]
"""By objective, a judge: its name, its file, or a mapping with its settings."""

Objectives = tuple[Annotated[str, Field(min_length=1)], ...]

Margins = Mapping[str, Mapping[str, float]]
"""By the identity of a pair, its margin on each objective on which it was scored."""


class Rewards(NamedTuple):
    """Margins on the ``objectives`` that are asked for, and what is known of the judges that gave them."""

    objectives: tuple[str, ...]
    margins: Margins
    judges: list[dict[str, Any]]


def rewards_of(pairs: Sequence[Pair], judges: JudgeSpecs, objectives: Objectives) -> Rewards:
    """Read or compute the margins of ``pairs``.

    Args:
        pairs: usable pairs.
        judges: by objective.
        objectives: those that are asked for; empty: all that a judge or a row scores.

    Raises:
        ConfigError: no objective, one that neither a judge nor a row scores, or a judge for one that is not
            asked for.
        JudgeError, ModelError: a judge or its model cannot be loaded.
    """
    brought = {objective for pair in pairs for objective in pair.margins}
    asked = tuple(sorted(set(objectives) or brought | set(judges)))
    if not asked:
        raise ConfigError(
            "nothing scores the pairs: no row has scores and no judge is named",
            where="judges",
            hint="for example judges: {harmlessness: harmlessness_head}, or give rows with `scores`",
        )
    for objective in asked:
        if objective not in brought and objective not in judges:
            hint = f"scored are: {', '.join(sorted(brought | set(judges))) or 'none'}"
            raise ConfigError(f"nothing scores the objective {objective!r}", where="objectives", hint=hint)
    for objective in judges:
        if objective not in asked:
            raise ConfigError(
                f"a judge is named for {objective!r}, which is not asked for",
                where="judges",
                hint="add it to `objectives`, or leave the judge out",
            )
    margins = {pair.identity: {o: m for o, m in pair.margins.items() if o in asked} for pair in pairs}
    cards = []
    for objective in sorted(judges):
        judge = resolve(judges[objective])
        scored, reasons = judged_margins(judge, pairs)
        for pair, margin in zip(pairs, scored, strict=True):
            margins[pair.identity].pop(objective, None)
            if margin is not None:
                margins[pair.identity][objective] = margin
        cards.append(_card(objective, judge, pairs, reasons))
    return Rewards(asked, margins, cards)


def judged_margins(judge: Judge, pairs: Sequence[Pair]) -> tuple[list[float | None], dict[str, int]]:
    """The margin of each pair under ``judge``, and how often it gave each reason for not scoring an answer.

    Cost: two verdicts a pair. The two answers to one prompt stand side by side, so that an engine computes
    the prompt once.
    """
    chats = [_chat(pair, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    verdicts = judge.score(chats)
    reasons = Counter(verdict.reason or "" for verdict in verdicts if verdict.value is None)
    margins: list[float | None] = []
    for chosen, rejected in zip(verdicts[::2], verdicts[1::2], strict=True):
        if chosen.value is None or rejected.value is None:
            margins.append(None)
            continue
        margin = chosen.value - rejected.value
        margins.append(margin if math.isfinite(margin) else None)
    return margins, dict(sorted(reasons.items()))


def _chat(pair: Pair, answer: Messages) -> Chat:
    return [dict(message) for message in (*pair.prompt, *answer)]


def _card(objective: str, judge: Judge, pairs: Sequence[Pair], reasons: Mapping[str, int]) -> dict[str, Any]:
    """What a reader must know of a judge before believing its margins."""
    known = judge.training_prompts
    fitted = sum(
        any(prompt_digest(m["content"]) in known for m in pair.prompt if m["role"] == "user")
        for pair in pairs
    )
    return {
        "objective": objective,
        "judge": judge.name,
        "its objective": judge.objective,
        "identity": judge.identity,
        "quality": judge.quality,
        "pairs whose prompt it was fitted on": fitted,
        "answers not scored": dict(reasons),
    }


def drop_unscored(pairs: Sequence[Pair], rewards: Rewards, ledger: Ledger, *, own: bool = True) -> list[Pair]:
    """The pairs with a margin on every objective; the rest is dropped and counted.

    Args:
        own: whether the objective that is a pair's own dimension is asked of it too.

    Raises:
        DataError: no pair has them all.
    """
    kept: list[Pair] = []
    dropped: list[Pair] = []
    for pair in pairs:
        needed = [o for o in rewards.objectives if own or o != pair.dimension]
        held = rewards.margins[pair.identity]
        (kept if all(objective in held for objective in needed) else dropped).append(pair)
    ledger.drop(UNSCORED, dropped)
    if pairs and not kept:
        raise DataError(
            f"no pair is scored on all of {', '.join(rewards.objectives)}",
            hint="name judges for the objectives that the rows do not score, or fewer `objectives`",
        )
    return kept


def margin_summary(pairs: Sequence[Pair], rewards: Rewards) -> list[dict[str, Any]]:
    """Number, mean, smallest, median and largest margin by dimension and objective, as a table."""
    rows = []
    for dimension, members in by_dimension(pairs).items():
        for objective in rewards.objectives:
            held = (rewards.margins[pair.identity].get(objective) for pair in members)
            margins = [margin for margin in held if margin is not None]
            row: dict[str, Any] = {"dimension": dimension, "objective": objective, "pairs": len(margins)}
            if margins:
                row |= {
                    "mean": fmean(margins),
                    "smallest": min(margins),
                    "median": median(margins),
                    "largest": max(margins),
                }
            rows.append(row)
    return rows
