"""What judges are fitted on and measured with: preference pairs, labelled answers, exchanges.

Each comes from a public set (``NAME/SPLIT:PATH``, see ``trivet.data.public``) or from a file of one's own
(``.jsonl``, ``.json``, ``.csv``, ``.parquet``).
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from trivet.data.prompts import prompt_digest
from trivet.data.public import find, is_public, load_reference
from trivet.data.reading import read_rows, text_field
from trivet.data.rows import check_rows
from trivet.errors import DataError
from trivet.judges.calibration import LabelledAnswer
from trivet.judges.refusal_negatives import Pair

Item = TypeVar("Item")


class Material(NamedTuple, Generic[Item]):
    """Rows, and where they come from."""

    title: str
    licence: str
    source: str
    rows: list[Item]


def preference_pairs(reference: str) -> Material[dict[str, Any]]:
    """Preference pairs: a public set of that kind, or a file in TRL's columns.

    In a file ``chosen`` and ``rejected`` are texts or lists of messages, and so is ``prompt``.

    Raises:
        DataError: no such set or file; a row lacks a field or breaks the schema.
    """
    if is_public(reference):
        return _public(reference, "preferences", dict)
    rows = []
    for number, (where, row) in enumerate(read_rows(reference), 1):
        for name in ("prompt", "chosen", "rejected"):
            if name not in row:
                text_field(row, name, where)  # raises, naming the nearest field
        pair = {
            "id": str(row.get("id") or number),
            "category": str(row.get("category") or "all"),
            "prompt": _messages(row["prompt"], "user"),
            "chosen": _messages(row["chosen"], "assistant"),
            "rejected": _messages(row["rejected"], "assistant"),
        }
        rows.append((where, pair))
    return Material(Path(reference).name, "your own", "a local file", check_rows(rows, "preferences"))


def labelled_answers(reference: str) -> Material[LabelledAnswer]:
    """Labelled answers: a public set of that kind, or a file.

    A file has ``prompt``, ``answer`` and ``label``, and optionally ``system`` (who answered). Of a public set
    the label on which its annotators agreed in the end is taken.

    Raises:
        DataError: no such set or file; a row lacks a field.
    """
    if is_public(reference):
        return _public(reference, "labelled_answers", _labelled)
    rows = []
    for where, row in read_rows(reference):
        prompt, label = text_field(row, "prompt", where), text_field(row, "label", where)
        answer = row.get("answer")
        if not isinstance(answer, str):
            answer = text_field(row, "answer", where)
        system = str(row.get("system") or "unknown")
        rows.append(LabelledAnswer(prompt, answer, label.strip(), system, prompt_digest(prompt)))
    return Material(Path(reference).name, "your own", "a local file", rows)


def exchanges(reference: str) -> Material[Pair]:
    """Prompts and real answers to them: both answers of preference pairs, or the labelled answers.

    Raises:
        DataError: as ``preference_pairs``.
    """
    kind = find(re.split(r"[/@:]", reference, maxsplit=1)[0]).kind if is_public(reference) else ""
    if kind == "labelled_answers":
        title, licence, source, answers = labelled_answers(reference)
        return Material(title, licence, source, [(row.prompt, row.answer) for row in answers])
    pairs = preference_pairs(reference)
    rows = [
        (str(row["prompt"][-1]["content"]), str(row[side][-1]["content"]))
        for row in pairs.rows
        for side in ("chosen", "rejected")
    ]
    return Material(pairs.title, pairs.licence, pairs.source, rows)


def _public(reference: str, kind: str, convert: Callable[[Mapping[str, Any]], Item]) -> Material[Item]:
    loaded = load_reference(reference, kind)
    rows = [convert(row) for row in loaded.rows]
    return Material(f"{find(loaded.name).title}, {loaded.split}", loaded.licence, loaded.source, rows)


def _labelled(row: Mapping[str, Any]) -> LabelledAnswer:
    label = str(row["metadata"].get("final_label") or max(row["labels"], key=row["labels"].count))
    cluster = str(row["metadata"].get("cluster") or prompt_digest(row["prompt"]))
    return LabelledAnswer(row["prompt"], row["answer"], label, row["model"], cluster)


def _messages(value: Any, role: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list):
        return value
    raise DataError(f"must be text or a list of messages, not {type(value).__name__}")
