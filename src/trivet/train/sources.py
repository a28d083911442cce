"""Where rows to train on come from: a file, a public set that Trivet knows, or a data set of the hub."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trivet._files import named_path
from trivet.data.public import is_public, load_reference
from trivet.data.reading import PlacedRow, read_rows
from trivet.errors import DataError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """Rows with their places. ``name`` is shown to people; ``left_out`` counts, by reason, what gave none."""

    name: str
    rows: Iterable[PlacedRow]
    left_out: Mapping[str, int] = field(default_factory=dict)


def open_source(source: str, *, base: Path) -> Source:
    """The rows that ``source`` names.

    Args:
        source: a file (``.jsonl``, ``.json``, ``.csv``, ``.parquet``), ``NAME[/SPLIT]:PATH`` for a public set
            of preference pairs (``hh_single_turn/train:folder``), or ``owner/name[:split]`` on the hub.
        base: the folder that a relative path is relative to.

    Raises:
        DataError: there is no such file or set, or it cannot be read.
    """
    path = named_path(source, base, error=DataError)
    if path.is_file():
        return Source(source, read_rows(path))
    if is_public(source):
        name, _, place = source.partition(":")
        loaded = load_reference(
            f"{name}:{named_path(place, base, error=DataError)}" if place else name, "preferences"
        )
        rows = [(f"{source}, row {number}", row) for number, row in enumerate(loaded.rows, 1)]
        return Source(f"{loaded.name}/{loaded.split} ({loaded.revision})", rows, loaded.left_out)
    if _HUB_ID.fullmatch(source) and not source.startswith("."):
        return Source(source, _from_hub(source))
    raise DataError(
        "no such file", where=str(path), hint="a file, NAME/SPLIT:PATH of a public set, or a hub id"
    )


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


def left_out_notes(left_out: Mapping[str, int]) -> list[str]:
    """The rows that gave none, in sentences."""
    return [f"{count} rows left out: {reason}" for reason, count in left_out.items()]
