"""Transcripts on their way into the page: grouped by prompt, as JSON that no HTML parser can mistake."""

import base64
import gzip
import json
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from trivet.study.report.characters import visible
from trivet.study.report.trace_tree import trees
from trivet.study.report.transcripts import Transcript

COMPRESS_ABOVE = 300_000
"""Characters of JSON above which it is packed; browsers since 2023 can unpack it."""

TRACES = 20_000_000
"""Characters of JSON that the traces of all answers take, at most; those of later answers are left out."""

# Inside <script> these could end the element, open a comment, or break old JavaScript parsers.
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}

ANSWER_KEYS = (
    "system",
    "epoch",
    "answer",
    "value",
    "label",
    "reason",
    "judge",
    "tokens",
    "stop_reason",
    "reasoning",
    "trace",
)


def group(transcripts: Iterable[Transcript], systems: list[str]) -> dict[str, Any]:
    """Transcripts by prompt: the prompt once, the answers of all systems below it.

    Systems, evaluations and other repeated names are numbers into lists. All texts have passed ``visible``.
    A trace is a list of trees, empty where the page would have grown beyond ``TRACES``.
    """
    names: dict[str, dict[str, int]] = {
        "systems": {visible(name): number for number, name in enumerate(systems)},
        **{key: {} for key in ("evaluations", "components", "categories", "labels", "judges", "stops")},
    }

    def code(table: str, text: str | None) -> int | None:
        if text is None:
            return None
        entries = names[table]
        return entries.setdefault(visible(text), len(entries))

    room = TRACES

    def trace(row: Transcript) -> list[Any] | None:
        nonlocal room
        if not row.trace:
            return None
        drawn = trees(row.trace)
        room -= len(json.dumps(drawn))
        return drawn if room >= 0 else []

    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in transcripts:
        key = (row.evaluation, row.component, row.sample_id)
        if key not in groups:
            groups[key] = {
                "evaluation": code("evaluations", row.evaluation),
                "component": code("components", row.component),
                "id": visible(row.sample_id),
                "category": code("categories", row.category),
                "prompt": visible(row.prompt),
                "answers": [],
            }
        groups[key]["answers"].append(
            [
                code("systems", row.system),
                row.epoch,
                visible(row.answer),
                row.value,
                code("labels", row.label),
                visible(row.reason) if row.reason else None,
                code("judges", row.judge),
                row.tokens,
                code("stops", row.stop_reason),
                visible(row.reasoning) if row.reasoning else None,
                trace(row),
            ]
        )
    for entry in groups.values():
        entry["answers"].sort(key=lambda answer: (answer[0], answer[1]))
    return {
        **{table: list(entries) for table, entries in names.items()},
        "keys": list(ANSWER_KEYS),
        "groups": list(groups.values()),
    }


def pack(value: dict[str, Any]) -> Markup:
    """The content of a ``<script type="application/json">``: the JSON itself, or ``{"gzip": base64}``."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(text) > COMPRESS_ABOVE:
        # Fixed time stamp: the same study gives the same file.
        data = gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0)
        text = json.dumps({"gzip": base64.b64encode(data).decode("ascii")})
    return Markup(text.translate(_UNSAFE))
