"""The prompt suites that ship: ``suites/<name>.jsonl`` with a datasheet ``suites/<name>.md`` beside each.

The name of a suite is its file name and its kind (``rows.ROW_TYPES``), so adding one edits nothing else.
"""

import json
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

from trivet._files import canonical_json, sha256_text
from trivet._validation import did_you_mean
from trivet.data.rows import check_rows
from trivet.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def _folder() -> Traversable:
    return files("trivet.data") / "suites"


@cache
def names() -> tuple[str, ...]:
    """The names of the suites that ship, sorted."""
    entries = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(".jsonl") for name in entries if name.endswith(".jsonl")))


def suite_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a suite as plain dictionaries, in file order, checked against the schema of its kind.

    Imports nothing heavy. Every call gives fresh objects that the caller may change.

    Raises:
        DataError: there is no suite of this name.
    """
    text = _read(name, "jsonl")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return check_rows(
        ((f"suites/{name}.jsonl, line {number}", json.loads(line)) for number, line in lines), name
    )


def load_suite(name: str) -> "Dataset":
    """A suite as a ``datasets.Dataset``, one column per field of its row.

    Fields whose form differs between rows (the rules of an instruction, metadata) come as JSON text, since a
    column of a ``Dataset`` has one type; ``suite_rows`` gives them as they are.

    Raises:
        DataError: there is no suite of this name.
    """
    from datasets import Dataset

    rows = suite_rows(name)
    for row in rows:
        for field in ("rules", "metadata"):
            if field in row:
                row[field] = canonical_json(row[field])
    return Dataset.from_list(rows)


@cache
def suite_hash(name: str) -> str:
    """Hexadecimal SHA-256 of the rows of a suite, in their order and independent of the file's layout.

    Raises:
        DataError: there is no suite of this name.
    """
    return sha256_text(canonical_json(suite_rows(name)))


def datasheet(name: str) -> str:
    """The datasheet of a suite: motivation, composition, collection, licence, limits, use (Markdown).

    Raises:
        DataError: there is no suite of this name.
    """
    return _read(name, "md")


def _read(name: str, suffix: str) -> str:
    if name not in names():
        raise DataError(f"there is no suite {name!r}", hint=did_you_mean(name, names()))
    return (_folder() / f"{name}.{suffix}").read_text(encoding="utf-8")
