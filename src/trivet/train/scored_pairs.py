"""Preference pairs for reward and cost models: margins, safety labels and categories beside the answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trivet.errors import DataError
from trivet.train.answer_scores import last_read
from trivet.train.batches import Example
from trivet.train.preferences import Column, Pair
from trivet.train.tokenising import Tokenised, tokenise_pairs


def number(value: Any, where: str) -> float:
    """A finite number, also one that a CSV file holds as text.

    Raises:
        DataError: it is none.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"must be a number (received {value!r:.80})", where=where)
    return found


def boolean(value: Any, where: str) -> bool:
    """True or false, also as 1 or 0, or as a CSV file holds them.

    Raises:
        DataError: it is none of these.
    """
    known = {"true": True, "1": True, "false": False, "0": False}
    found = known.get(str(value).strip().lower())
    if found is None:
        raise DataError(f"must be true or false (received {value!r:.80})", where=where)
    return found


def category(value: Any, where: str) -> str:
    """The name of a category.

    Raises:
        DataError: it is not a text.
    """
    if not isinstance(value, str):
        raise DataError(f"must be a text (received {value!r:.80})", where=where)
    return " ".join(value.split())[:100]


COLUMNS: dict[str, Column] = {
    "margin": number,
    "category": category,
    "chosen_safe": boolean,
    "rejected_safe": boolean,
}


def from_responses(row: dict[str, Any], place: str, better: str) -> dict[str, Any]:
    """A row in the form of PKU-SafeRLHF as a pair; a row in another form as it is.

    Args:
        row: with ``prompt``, ``response_0``, ``response_1`` and, where they are labelled,
            ``is_response_0_safe``, ``is_response_1_safe``. Prompt and responses, texts, become messages.
        better: the column that says which response is chosen, 0 or 1.

    Raises:
        DataError: a column is missing or not what it must be.
    """
    if "response_0" not in row or "chosen" in row:
        return row
    needed = ("prompt", "response_0", "response_1")
    for name in needed:
        if not isinstance(row.get(name), str):
            raise DataError(
                f"the field {name!r} must be a text (received {row.get(name)!r:.80})", where=place
            )
    first = str(row.get(better)).strip()
    if first not in ("0", "1"):
        raise DataError(
            f"the field {better!r} must be 0 or 1 (received {row.get(better)!r:.80})", where=place
        )
    second = "1" if first == "0" else "0"
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row[f"response_{first}"]}],
        "rejected": [{"role": "assistant", "content": row[f"response_{second}"]}],
        "category": row.get("category"),
        "margin": row.get("margin"),
        "chosen_safe": row.get(f"is_response_{first}_safe"),
        "rejected_safe": row.get(f"is_response_{second}_safe"),
    }


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair as token ids. ``signs``, of chosen and rejected: +1 unsafe, −1 safe, 0 not labelled."""

    example: Example
    margin: float = 0.0
    signs: tuple[int, int] = (0, 0)
    category: str | None = None


def scored_pairs(
    pairs: Sequence[Pair], tokenizer: Any, *, max_length: int | None, padding: int
) -> tuple[list[ScoredPair], Tokenised]:
    """Pairs as token ids, as TRL's RewardTrainer makes them: a pair with too long an answer is dropped.

    A score is read at an answer's end, so an answer that is cut off is another answer.

    Args:
        max_length: tokens of a prompt and an answer together.
        padding: the token that pads; an answer of nothing else is dropped.

    Raises:
        DataError: no pair is left, or the tokenizer has no chat template for messages.
    """
    whole = tokenise_pairs(pairs, tokenizer, max_length=None)
    dropped = dict(whole.dropped)
    kept = []
    for example in whole.examples:
        longest = len(example.prompt) + max(map(len, example.answers))
        if max_length is not None and longest > max_length:
            reason = f"an answer with its prompt has more than {max_length} tokens (max_length)"
        elif min(last_read(answer, padding) for answer in example.answers) < 0:
            reason = "an answer has no token but the one that pads"
        else:
            kept.append(example)
            continue
        dropped[reason] = dropped.get(reason, 0) + 1
    if not kept:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.items())
        raise DataError(f"no pair is left to train on: {reasons}", hint="raise max_length")
    made = [
        ScoredPair(
            example,
            pairs[example.row].get("margin", 0.0),
            (_sign(pairs[example.row], "chosen_safe"), _sign(pairs[example.row], "rejected_safe")),
            pairs[example.row].get("category"),
        )
        for example in kept
    ]
    return made, replace(whole, examples=kept, dropped=dropped)


def _sign(pair: Pair, column: str) -> int:
    safe = pair.get(column)
    return 0 if safe is None else -1 if safe else 1
