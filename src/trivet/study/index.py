"""The table of a store's manifests, so that listing does not open thousands of files.

It is a copy: whatever is wrong with it, it is made anew from the manifests, and no decision rests on it.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    address TEXT PRIMARY KEY, method TEXT NOT NULL, study TEXT NOT NULL, step TEXT NOT NULL,
    created TEXT NOT NULL, seconds REAL NOT NULL, bytes INTEGER NOT NULL
)
"""
_COLUMNS = ("address", "method", "study", "step", "created", "seconds", "bytes")


class _Manifest(Protocol):
    @property
    def address(self) -> str: ...
    @property
    def description(self) -> dict[str, Any]: ...
    @property
    def study(self) -> str: ...
    @property
    def step(self) -> str: ...
    @property
    def created(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def bytes(self) -> int: ...


class Index:
    """The SQLite file. Only the driver calls ``add`` and ``rebuild``."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @staticmethod
    def row(manifest: _Manifest) -> dict[str, Any]:
        """One row as a mapping."""
        return {
            "address": manifest.address,
            "method": manifest.description["method"],
            "study": manifest.study,
            "step": manifest.step,
            "created": manifest.created,
            "seconds": manifest.seconds,
            "bytes": manifest.bytes,
        }

    def rows(self) -> list[dict[str, Any]] | None:
        """All rows, oldest first; ``None`` where the index is missing or broken."""
        if not self.path.is_file():
            return None
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
                found = connection.execute(
                    f"SELECT {', '.join(_COLUMNS)} FROM objects ORDER BY created, address"
                ).fetchall()
        except sqlite3.Error:
            return None
        return [dict(zip(_COLUMNS, row, strict=True)) for row in found]

    def add(self, manifest: _Manifest) -> None:
        """Insert or replace one row. A failure only drops the index: it is a copy."""
        try:
            with closing(sqlite3.connect(self.path)) as connection, connection:
                self._insert(connection, [manifest])
        except sqlite3.Error:
            self._drop()

    def rebuild(self, manifests: Iterable[_Manifest]) -> None:
        """Make the table anew."""
        self._drop()
        try:
            with closing(sqlite3.connect(self.path)) as connection, connection:
                self._insert(connection, manifests)
        except sqlite3.Error:
            self._drop()

    def _insert(self, connection: sqlite3.Connection, manifests: Iterable[_Manifest]) -> None:
        connection.execute(_SCHEMA)
        marks = ", ".join("?" for _ in _COLUMNS)
        connection.executemany(
            f"INSERT OR REPLACE INTO objects ({', '.join(_COLUMNS)}) VALUES ({marks})",
            [tuple(self.row(manifest)[column] for column in _COLUMNS) for manifest in manifests],
        )

    def _drop(self) -> None:
        for path in (self.path, self.path.with_name(self.path.name + "-journal")):
            with suppress(OSError):
                path.unlink(missing_ok=True)
