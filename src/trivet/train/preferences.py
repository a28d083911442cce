"""Preference pairs in the forms that TRL reads: a file, a public set, or a data set of the hub."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivet._files import canonical_json, sha256_text
from trivet.data.prompts import prompt_digest
from trivet.data.public.preferences import parse_dialogue
from trivet.errors import DataError
from trivet.models.torch_engine.kv_tree import common_length
from trivet.train.sources import open_source

_TRANSCRIPT = re.compile(r"\s*(Human|Assistant):")

Pair = dict[str, Any]
"""``prompt``, ``chosen`` and ``rejected``: all three texts, or all three lists of messages. Further
columns where ``read_preferences`` was asked for them."""

Column = Callable[[Any, str], Any]
"""Reads a value of a column, given its place for messages."""


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


def read_preferences(
    source: str,
    *,
    base: Path,
    columns: Mapping[str, Column] | None = None,
    convert: Callable[[dict[str, Any], str], dict[str, Any]] | None = None,
) -> PreferenceSet:
    """Read preference pairs.

    A row has ``chosen`` and ``rejected``, texts or lists of messages, and ``prompt``, or else the prompt is
    what the two begin with alike. Transcripts (``\\n\\nHuman: … \\n\\nAssistant: …``) become messages.

    Args:
        source: see ``trivet.train.sources.open_source``.
        base: the folder that a relative path is relative to.
        columns: further columns that a pair keeps where its row has them, each with what reads its value.
        convert: makes such a row of a row in another form, given its place for messages.

    Raises:
        DataError: it cannot be read, or a row is not a pair; names file, line and field.
    """
    found = open_source(source, base=base)
    left_out: Counter[str] = Counter(found.left_out)
    pairs = []
    for place, row in found.rows:
        row = row if convert is None else convert(row, place)
        pair = pair_of(row, place)
        if isinstance(pair, str):
            left_out[pair] += 1
            continue
        for name, read in (columns or {}).items():
            if row.get(name) is not None:
                pair[name] = read(row[name], f"{place}, {name}")
        pairs.append(pair)
    if not pairs:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in left_out.items())
        raise DataError(f"no row gives a preference pair: {reasons}", where=source)
    return PreferenceSet(found.name, pairs, dict(left_out))


def asked(prompt: str | list[dict[str, str]]) -> str:
    """Digest of what a prompt asks: of its text, or of its last message of the user."""
    if isinstance(prompt, str):
        return prompt_digest(prompt)
    users = [message["content"] for message in prompt if message["role"] == "user"]
    return prompt_digest(users[-1] if users else prompt[-1]["content"])


def pair_of(row: Mapping[str, Any], place: str) -> Pair | str:
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
        check_text_or_messages(name, value, place)
    kinds = {isinstance(value, str) for value in sides.values()}
    if len(kinds) > 1:
        raise DataError("the fields are texts and lists of messages mixed", where=place)
    if kinds == {True}:
        return _of_texts(sides)
    return _of_messages(sides)


def check_text_or_messages(name: str, value: Any, place: str) -> None:
    """Refuse a field that is neither a text nor a list of messages.

    Raises:
        DataError: names the place and the field.
    """
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
        shared = common_length(chosen, rejected)
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
        shared = common_length(chosen, rejected)
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
