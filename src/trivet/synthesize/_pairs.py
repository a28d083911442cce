"""Preference pairs with their dimension, checked, from a data set, from rows or from a file.

A row has TRL's columns ``prompt``, ``chosen`` and ``rejected``, each a text or a list of
``{"role", "content"}`` messages, and

- ``dimension``: what the preference is about (``helpfulness``, ``honesty``, …);
- ``source``: where the pair comes from;
- ``scores`` (optional): by objective, either the margin (the score of ``chosen`` minus that of ``rejected``)
  or ``{"chosen": score, "rejected": score}``. ``None``, NaN and an infinite value mean "not scored".

Other columns are not read.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset

from trivet._files import canonical_json, sha256_file, sha256_text
from trivet._validation import did_you_mean
from trivet.data.prompts import normalise_prompt
from trivet.data.public import is_public, load_reference
from trivet.data.reading import read_rows
from trivet.errors import DataError

Messages: TypeAlias = list[dict[str, str]]

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference. A text is held as the one message that it stands for (``conversational`` false).

    ``identity`` is the SHA-256 of all that the row says, ``key`` that of the normalised prompt and the two
    answers: pairs with one key count as the same. ``margins`` are by objective; one that is not there was not
    scored.
    """

    dimension: str
    source: str
    prompt: Messages
    chosen: Messages
    rejected: Messages
    conversational: bool
    margins: Mapping[str, float]
    identity: str
    key: str


@dataclass(frozen=True)
class PreferenceSet:
    """Checked pairs, and where they come from (licence, revision, digest: whatever is known)."""

    name: str
    pairs: tuple[Pair, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)


def preference_set(
    rows: Dataset | Iterable[Mapping[str, Any]],
    *,
    dimension: str | None = None,
    source: str | None = None,
    name: str = "",
    provenance: Mapping[str, str] | None = None,
) -> PreferenceSet:
    """Check rows that are in memory.

    Args:
        rows: see the module.
        dimension: of the rows that name none.
        source: of the rows that name none; by default ``name``, if there is one.
        name: what messages and the datasheet call the set.
        provenance: what the datasheet says of the set beside its name.

    Raises:
        DataError: no rows; a row without a needed field, or with one of a wrong type (named by its number).
    """
    if isinstance(rows, str | Mapping):
        hint = "of a DatasetDict take one split; a file is read by `read_preference_set`"
        raise DataError(f"rows are needed, not {type(rows).__name__}", where=name or None, hint=hint)
    prefix = f"{name}, " if name else ""
    placed = ((f"{prefix}row {number}", row) for number, row in enumerate(rows, 1))
    return _checked(placed, dimension, source, name, provenance or {})


def read_preference_set(
    reference: str | Path, *, dimension: str | None = None, source: str | None = None
) -> PreferenceSet:
    """Read a file of rows, or a public set of preference pairs.

    Args:
        reference: a path (``.jsonl``, ``.json``, ``.csv``, ``.parquet``), or the name of a public set
            (``hh_single_turn/train:FOLDER``, see ``trivet.data.public.load_reference``).
        dimension: of the rows that name none; the rows of a public set have their category.
        source: of the rows that name none; by default the name of the file or set.

    Raises:
        DataError: as ``preference_set``; or the file cannot be read.
    """
    if is_public(str(reference)):
        loaded = load_reference(str(reference), "preferences")
        name = f"{loaded.name}/{loaded.split}"
        provenance = {"licence": loaded.licence, "origin": loaded.source, "revision": loaded.revision}
        rows = [
            (f"{name}, {row['id']}", {**row, "dimension": dimension or row["category"]})
            for row in loaded.rows
        ]
        return _checked(rows, dimension, source, name, provenance)
    path = Path(reference)
    placed = read_rows(path)
    return _checked(placed, dimension, source, path.name, {"revision": f"sha256:{sha256_file(path)}"})


def _checked(
    placed: Iterable[tuple[str, Any]],
    dimension: str | None,
    source: str | None,
    name: str,
    provenance: Mapping[str, str],
) -> PreferenceSet:
    pairs = tuple(_pair(row, where, dimension, source or name or None) for where, row in placed)
    if not pairs:
        raise DataError("the set has no rows", where=name or None, hint="give a set with at least one pair")
    return PreferenceSet(name, pairs, dict(provenance))


def _pair(row: Any, where: str, dimension: str | None, source: str | None) -> Pair:
    if not isinstance(row, Mapping):
        hint = "`sets` is a list of data sets, each a list of rows"
        raise DataError(
            f"a row is a mapping with named fields, not {type(row).__name__}", where=where, hint=hint
        )
    for column in ("prompt", "chosen", "rejected"):
        if column not in row:
            hint = did_you_mean(column, map(str, row))
            if column == "prompt" and {"chosen", "rejected"} <= set(row):
                hint = "the prompt is inside the answers: `trl.extract_prompt` takes it out"
            raise DataError(f"the field {column!r} is missing", where=where, hint=hint)
    prompt = _messages(row["prompt"], "user", f"{where}, prompt")
    chosen = _answer(row["chosen"], f"{where}, chosen")
    rejected = _answer(row["rejected"], f"{where}, rejected")
    about = _label(row.get("dimension"), dimension, "dimension", where)
    origin = _label(row.get("source"), source, "source", where)
    margins = _margins(row.get("scores"), where)
    texts = (str, type(None))
    conversational = not all(isinstance(row[column], texts) for column in ("prompt", "chosen", "rejected"))
    said = [prompt, chosen, rejected, about, origin, conversational, margins]
    folded = [[message["role"], normalise_prompt(message["content"])] for message in prompt]
    return Pair(
        dimension=about,
        source=origin,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        conversational=conversational,
        margins=margins,
        identity=sha256_text(canonical_json(said)),
        key=sha256_text(canonical_json([folded, answer_text(chosen), answer_text(rejected)])),
    )


def answer_text(messages: Messages) -> str:
    """What makes two answers the same: roles and words, whatever the white space between them.

    Case and punctuation count, unlike in a prompt: an answer may be a program.
    """
    return canonical_json([[message["role"], " ".join(message["content"].split())] for message in messages])


def is_blank(messages: Messages) -> bool:
    """Whether nothing is said beside a system message."""
    return not any(message["content"].strip() for message in messages if message["role"] != "system")


def _messages(value: Any, role: str, where: str) -> Messages:
    """The messages of a field; a text is one message of ``role``, ``None`` none."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"role": role, "content": _text(value, where)}]
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise DataError(f"must be text or a list of messages, not {type(value).__name__}", where=where)
    return [_message(message, where) for message in value]


def _message(message: Any, where: str) -> dict[str, str]:
    # Arrow fills a field that other messages of the column have with None.
    fields = message.items() if isinstance(message, Mapping) else ()
    held = {name: part for name, part in fields if part is not None}
    if set(held) != {"role", "content"} or not all(isinstance(part, str) for part in held.values()):
        raise DataError(
            "a message has the fields 'role' and 'content', both text, and no other",
            where=where,
            hint="tool calls and images are not mixed here",
        )
    if held["role"] not in ROLES:
        raise DataError(
            f"unknown role {held['role']!r:.80}", where=where, hint=did_you_mean(held["role"], ROLES)
        )
    return {"role": held["role"], "content": _text(held["content"], where)}


def _answer(value: Any, where: str) -> Messages:
    messages = _messages(value, "assistant", where)
    if messages and (messages[0]["role"] in ("system", "user") or messages[-1]["role"] != "assistant"):
        raise DataError(
            "an answer begins after the prompt and ends with a message of the assistant",
            where=where,
            hint="where it repeats the prompt, `trl.extract_prompt` takes the prompt out",
        )
    return messages


def _text(text: str, where: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(
                "holds half of a surrogate pair, which is not text",
                where=where,
                hint="write the whole character, or leave it out",
            ) from None
    return text


def _label(value: Any, default: str | None, name: str, where: str) -> str:
    label = default if value is None else value
    if label is None:
        hint = f"add the column, or give `{name}=` with the set"
        raise DataError(f"the field {name!r} is missing", where=where, hint=hint)
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"the field {name!r} must be text that is not blank", where=where)
    return _text(label.strip(), where)


def _margins(scores: Any, where: str) -> dict[str, float]:
    if scores is None:
        return {}
    if not isinstance(scores, Mapping):
        raise DataError(
            f"the field 'scores' must be a mapping of objectives to scores, not {type(scores).__name__}",
            where=where,
            hint='for example {"helpfulness": 0.7}, the margin of the chosen answer over the rejected one',
        )
    margins = {}
    for objective, score in sorted(scores.items()):
        margin = _margin(score, f"{where}, scores of {objective!r:.80}")
        if margin is not None and math.isfinite(margin):
            margins[_text(str(objective), where)] = margin
    return margins


def _margin(score: Any, where: str) -> float | None:
    if isinstance(score, Mapping):
        if not set(score) <= {"chosen", "rejected"}:
            raise DataError("has the fields 'chosen' and 'rejected', and no other", where=where)
        sides = [_margin(score.get(side), where) for side in ("chosen", "rejected")]
        return None if sides[0] is None or sides[1] is None else sides[0] - sides[1]
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise DataError(
            f"a score is a number, or None where there is none (received {score!r:.80})", where=where
        )
    return float(score)
