"""The datasheet of a mixture: what went in, what was dropped and why, the settings, what was measured.

As JSON for programs and as Markdown for readers. It holds no date, so that equal inputs give an
equal datasheet. Names and reasons come from data and judges and are escaped.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trivet._files import atomic_writer, write_json, write_text
from trivet._markdown import escaped
from trivet.errors import StoreError

if TYPE_CHECKING:
    from trivet.synthesize._mixture import Mixture

Counts = Mapping[str, Mapping[str, int]]
"""Pairs by dimension and source."""


@dataclass(frozen=True)
class Datasheet:
    """What is known of how a mixture was made.

    Attributes:
        method: the recipe's name in the catalogue, of ``version``.
        settings: all of them, the seed among them.
        inputs: name, number of pairs and provenance of each set that was read.
        format: of TRL: ``standard`` (texts) or ``conversational`` (messages).
        rows: pairs in the mixture.
        rows_sha256: of the file that ``write_mixture`` writes.
        read, kept: pairs by dimension and source.
        dropped: by reason, then by dimension and source; read = kept + dropped for each source.
        measures: what the recipe measured, as plain JSON. A list of mappings is a table.
    """

    method: str
    version: int
    settings: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    format: str
    rows: int
    rows_sha256: str
    read: Counts
    dropped: Mapping[str, Counts]
    kept: Counts
    measures: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def to_markdown(self) -> str:
        """As Markdown with one table a subject."""
        parts = [
            f"# Preference mixture by `{self.method}`",
            f"{self.rows} pairs in TRL's {self.format} preference format. Version {self.version} of the "
            f"recipe, seed {self.settings['seed']}. SHA-256 of the rows: `{self.rows_sha256}`.",
            "## Settings",
            _table([{"setting": name, "value": value} for name, value in self.settings.items()]),
            "## What went in",
            _table(self.inputs),
            "## What came of it",
            _table(list(self._accounts())),
            "Every pair that was read is kept or counted under one reason.",
        ]
        for name, measured in self.measures.items():
            table = measured if isinstance(measured, list) else [measured]
            parts += [f"## {escaped(name.replace('_', ' ').capitalize())}", _table(table)]
        return "\n\n".join(parts) + "\n"

    def _accounts(self) -> Iterator[dict[str, Any]]:
        for dimension, sources in self.read.items():
            for source, read in sources.items():
                reasons = {
                    reason: counts.get(dimension, {}).get(source, 0)
                    for reason, counts in self.dropped.items()
                }
                kept = self.kept.get(dimension, {}).get(source, 0)
                yield {"dimension": dimension, "source": source, "read": read, **reasons, "kept": kept}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with a column for each field that a row has; ``–`` where it has not."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(map(escaped, columns)) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines) if columns else "None."


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escaped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


class Written(NamedTuple):
    """The files of a written mixture."""

    rows: Path
    datasheet: Path
    datasheet_markdown: Path


def write_mixture(mixture: "Mixture", folder: str | Path) -> Written:
    """Write ``preferences.jsonl``, ``datasheet.md`` and ``datasheet.json`` into ``folder``.

    Each file is whole or absent. ``datasheet.json`` is taken away first and written last: where it is there,
    the mixture is complete, and its ``rows_sha256`` is that of ``preferences.jsonl``.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    files = Written(folder / "preferences.jsonl", folder / "datasheet.json", folder / "datasheet.md")
    try:
        files.datasheet.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot be replaced: {error.strerror}", where=str(files.datasheet)) from error
    with atomic_writer(files.rows) as stream:
        stream.writelines(map(json_line, _rows(mixture.dataset)))
    write_text(files.datasheet_markdown, mixture.datasheet.to_markdown())
    write_json(files.datasheet, mixture.datasheet.to_json())
    return files


def _rows(dataset: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for row in dataset:
        yield dict(row)


def json_line(row: Mapping[str, Any]) -> str:
    """One row of a ``.jsonl`` file, with its line break."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
