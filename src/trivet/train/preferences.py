"""Preference pairs in the forms that TRL reads: a file, a public set, or a data set of the hub."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivet._files import canonical_json, sha256_text
from trivet.data.public import is_public, load_reference
from trivet.data.public.preferences import parse_dialogue
from trivet.data.reading import PlacedRow, read_rows
from trivet.errors import DataError

_TRANSCRIPT = re.compile(r"\s*(Human|Assistant):")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")

Pair = dict[str, Any]
"""``prompt``, ``chosen`` and ``rejected``: all three texts, or all three lists of messages."""


@dataclass(frozen=True)
class PreferenceSet:
    """Pairs as read. ``source`` names them; ``left_out`` counts, by reason, the rows that gave none."""

    source: str
    pairs: Sequence[Pair]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the pairs."""
        return sha256_text(canonical_json(list(self.pairs)))


def read_preferences(source: str, *, base: Path) -> PreferenceSet:
    """Read preference pairs.

    A row has ``chosen`` and ``rejected``, texts or lists of messages, and ``prompt``, or else the prompt is
    what the two begin with alike. Transcripts (``\\n\\nHuman: … \\n\\nAssistant: …``) become messages.

    Args:
        source: a file (``.jsonl``, ``.json``, ``.csv``, ``.parquet``), ``NAME[/SPLIT]:PATH`` for a public set
            that Trivet knows (``hh_single_turn/train:folder``), or ``owner/name[:split]`` on the hub.
        base: the folder that a relative path is relative to.

    Raises:
        DataError: it cannot be read, or a row is not a pair; names file, line and field.
    """
    path = base / Path(source).expanduser()
    if path.is_file():
        rows: Iterable[PlacedRow] = read_rows(path)
    elif is_public(source):
        name, _, place = source.partition(":")
        where = f"{name}:{base / Path(place).expanduser()}" if place else name
        loaded = load_reference(where, "preferences")
        pairs = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in loaded.rows]
        return PreferenceSet(f"{loaded.name}/{loaded.split} ({loaded.revision})", pairs, loaded.left_out)
    elif _HUB_ID.fullmatch(source) and not source.startswith("."):
        rows = _from_hub(source)
    else:
        raise DataError(
            "no such file", where=str(path), hint="a file, NAME/SPLIT:PATH of a public set, or a hub id"
        )
    left_out: Counter[str] = Counter()
    pairs = []
    for place, row in rows:
        pair = _pair(row, place)
        if isinstance(pair, str):
            left_out[pair] += 1
        else:
            pairs.append(pair)
    if not pairs:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in left_out.items())
        raise DataError(f"no row gives a preference pair: {reasons}", where=source)
    return PreferenceSet(source, pairs, dict(left_out))


def _from_hub(source: str) -> Iterable[PlacedRow]:
    from datasets import load_dataset

    name, _, split = source.partition(":")
    try:
        loaded = load_dataset(name, split=split or "train")
    except Exception as error:  # the hub, the network and the set's own script each fail in their own way
        raise DataError(
            f"cannot be loaded from the hub: {' '.join(str(error).split())[:300]}",
            where=source,
            hint="check the name, the split and the network",
        ) from error
    return ((f"{source}, row {number}", row) for number, row in enumerate(loaded, 1))


def _pair(row: Mapping[str, Any], place: str) -> Pair | str:
    """The pair of a row, or the reason why it gives none."""
    missing = [name for name in ("chosen", "rejected") if name not in row]
    if missing:
        raise DataError(
            f"the field {missing[0]!r} is missing",
            where=place,
            hint="a preference pair has the fields prompt, chosen and rejected, as in TRL",
        )
    sides = {name: row[name] for name in ("prompt", "chosen", "rejected") if row.get(name) is not None}
    for name, value in sides.items():
        _check_side(name, value, place)
    kinds = {isinstance(value, str) for value in sides.values()}
    if len(kinds) > 1:
        raise DataError("the fields are texts and lists of messages mixed", where=place)
    if kinds == {True}:
        return _of_texts(sides)
    return _of_messages(sides)


def _check_side(name: str, value: Any, place: str) -> None:
    if isinstance(value, str):
        return
    messages = isinstance(value, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("role"), str)
        and isinstance(entry.get("content"), str)
        for entry in value
    )
    if not messages:
        raise DataError(
            f"{name}: must be a text or a list of messages with role and content (received {value!r:.80})",
            where=place,
        )


def _of_texts(sides: Mapping[str, str]) -> Pair | str:
    chosen, rejected = sides["chosen"], sides["rejected"]
    if "prompt" not in sides and _TRANSCRIPT.match(chosen) and _TRANSCRIPT.match(rejected):
        parsed = parse_dialogue(chosen), parse_dialogue(rejected)
        if parsed[0] is None or parsed[1] is None:
            return "the turns do not alternate, or one is empty"
        return _of_messages({"chosen": parsed[0], "rejected": parsed[1]})
    if "prompt" not in sides:
        shared = _common_length(chosen, rejected)
        cut = chosen.rfind(" ", 0, shared)  # not in the middle of a word
        prompt, chosen, rejected = chosen[: max(cut, 0)], chosen[max(cut, 0) :], rejected[max(cut, 0) :]
    else:
        prompt = sides["prompt"]
    if not prompt:
        return "the prompt is empty"
    return _checked({"prompt": prompt, "chosen": chosen, "rejected": rejected})


def _of_messages(sides: Mapping[str, list[dict[str, str]]]) -> Pair | str:
    chosen, rejected = sides["chosen"], sides["rejected"]
    if "prompt" in sides:
        prompt = sides["prompt"]
    else:
        shared = _common_length(chosen, rejected)
        while shared and chosen[shared - 1]["role"] == "assistant":
            shared -= 1  # a prompt ends with what is answered
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not prompt:
        return "the prompt is empty"
    if len(chosen) != 1 or len(rejected) != 1:
        return "the two dialogues differ before their last answer"
    if not (chosen[0]["content"].strip() and rejected[0]["content"].strip()):
        return "an answer is empty"
    return _checked({"prompt": prompt, "chosen": chosen, "rejected": rejected})


def _checked(pair: Pair) -> Pair | str:
    if pair["chosen"] == pair["rejected"]:
        return "the two answers are the same"
    if not (pair["chosen"] and pair["rejected"]):
        return "an answer is empty"
    return pair


def _common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    count = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        count += 1
    return count
