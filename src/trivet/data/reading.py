"""Reading a user's file of rows: ``.jsonl``, ``.json``, ``.csv`` (each also ``.gz``) and ``.parquet``.

Each row comes with its place, so that a later complaint can name file and line.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trivet._validation import did_you_mean
from trivet.data.prompts import prompt_digest
from trivet.errors import DataError

PlacedRow = tuple[str, dict[str, Any]]

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def read_rows(
    path: str | Path,
    *,
    encoding: str = "utf-8",
    columns: Sequence[str] | None = None,
    records: str | None = None,
) -> list[PlacedRow]:
    """Read a file of rows.

    Args:
        path: the file; its suffix says its format. ``.jsonl``: an object a line, blank lines skipped;
            ``.json``: a list of objects; ``.csv``: the first line names the columns and every value is text;
            ``.parquet``: as ``pyarrow`` reads it. The first three may be gzip-compressed (``.jsonl.gz``).
        encoding: of a text file; a byte-order mark is skipped.
        columns: names of the columns of a ``.csv`` file whose first line is a row already.
        records: the key under which a ``.json`` file whose top level is an object holds its rows.

    Returns:
        Pairs of place (``"prompts.jsonl, line 3"``) and row, one or more.

    Raises:
        DataError: no such file; an unknown suffix; wrong encoding; not of its format; a row that is not an
            object, repeats a key or holds text that is not Unicode; no rows. It names the file and line.
    """
    path = Path(path)
    suffix = _format(path)
    if not path.is_file():
        raise DataError("is a folder, not a file" if path.is_dir() else "no such file", where=str(path))
    if suffix == ".parquet":
        rows = list(_parquet(path))
    else:
        text = _text(path, encoding)
        if suffix == ".jsonl":
            rows = list(_jsonl(path, text))
        elif suffix == ".json":
            rows = list(_json(path, text, records))
        else:
            rows = list(_csv(path, text, columns))
    if not rows:
        raise DataError("the file has no rows", where=str(path), hint="give a file with at least one row")
    for where, row in rows:
        _check_unicode(row, where)
    return rows


def read_prompts(path: str | Path, *, encoding: str = "utf-8") -> list[dict[str, Any]]:
    """Read a file of prompts of the user's own.

    Every row needs ``prompt`` (text). ``id`` (by default the first 16 digits of the prompt's digest, with the
    row's number where a prompt is repeated) and ``category`` (by default ``"all"``) are optional; every
    other field is kept under ``metadata``.

    Returns:
        Rows ``{"id", "prompt", "category", "metadata"}`` in the order of the file.

    Raises:
        DataError: as ``read_rows``; or a row without a prompt, with a blank one, or with an id given twice.
    """
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, (where, row) in enumerate(read_rows(path, encoding=encoding), 1):
        prompt = text_field(row, "prompt", where)
        identity = str(row["id"]) if row.get("id") not in (None, "") else prompt_digest(prompt)[:16]
        if identity in seen and row.get("id") in (None, ""):
            identity = f"{identity}-{number}"
        if identity in seen:
            raise DataError(f"the id {identity!r} is given twice", where=where, hint="make the ids unique")
        seen.add(identity)
        metadata = {name: value for name, value in row.items() if name not in ("id", "prompt", "category")}
        category = str(row.get("category") or "all")
        rows.append({"id": identity, "prompt": prompt, "category": category, "metadata": metadata})
    return rows


def text_field(row: dict[str, Any], name: str, where: str) -> str:
    """The text in the field ``name`` of ``row``.

    Raises:
        DataError: the field is missing (names the nearest one), not text, or blank.
    """
    if name not in row:
        raise DataError(f"the field {name!r} is missing", where=where, hint=did_you_mean(name, map(str, row)))
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"the field {name!r} must be text, not {type(value).__name__}", where=where)
    if not value.strip():
        raise DataError(f"the field {name!r} is blank", where=where)
    return value


def _format(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    suffix = Path(name).suffix.lower()
    if suffix not in _SUFFIXES or (suffix == ".parquet" and name != path.name):
        raise DataError(
            f"unknown kind of file {path.name!r}",
            where=str(path),
            hint="rows are read from .jsonl, .json, .csv (each also with .gz) and .parquet",
        )
    return suffix


def _text(path: Path, encoding: str) -> str:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from None
    try:
        return data.decode(
            "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
        )
    except LookupError:
        raise DataError(f"unknown encoding {encoding!r}", where=str(path), hint="for example utf-8") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"is not {encoding}: byte 0x{data[error.start]:02x}",
            where=f"{path}, line {line}",
            hint="save the file as UTF-8, or give its encoding",
        ) from None


def _parse(text: str, where: str, first_line: int | None = None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        if first_line is None:
            where = f"{where}, line {error.lineno}"
        raise DataError(f"is not valid JSON: {error.msg}, column {error.colno}", where=where) from None
    except ValueError as error:
        raise DataError(f"is not valid JSON: {error}", where=where) from None
    except RecursionError:
        raise DataError("is nested too deeply", where=where) from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return value


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _jsonl(path: Path, text: str) -> Iterator[PlacedRow]:
    # str.splitlines would also split at U+2028 and the like, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _object(_parse(line, where, number), where)


def _json(path: Path, text: str, records: str | None) -> Iterator[PlacedRow]:
    value = _parse(text, str(path))
    if records is not None and isinstance(value, dict):
        value = value.get(records)
    if not isinstance(value, list):
        raise DataError(
            f"the top level must be a list of rows, not {type(value).__name__}",
            where=str(path),
            hint="an object on each line is .jsonl",
        )
    for number, row in enumerate(value, 1):
        yield f"{path}, row {number}", _object(row, f"{path}, row {number}")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"a row must be an object with named fields, not {type(value).__name__}", where=where)
    return value


def _csv(path: Path, text: str, columns: Sequence[str] | None) -> Iterator[PlacedRow]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = list(columns) if columns is not None else next(reader, [])
        if any(not name.strip() for name in header) or len(set(header)) != len(header):
            raise DataError("the first line must name every column, each once", where=f"{path}, line 1")
        start = reader.line_num + 1
        for values in reader:
            where = f"{path}, line {start}"
            start = reader.line_num + 1
            if not values:
                continue
            if len(values) != len(header):
                raise DataError(
                    f"has {len(values)} values for {len(header)} columns",
                    where=where,
                    hint="put a value that holds a comma or a line break in double quotes",
                )
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise DataError(f"is not valid CSV: {error}", where=f"{path}, line {reader.line_num}") from None


def _parquet(path: Path) -> Iterator[PlacedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"is not a readable Parquet file: {' '.join(str(error).split())}", where=str(path)
        ) from None
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _check_unicode(value: Any, where: str) -> None:
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise DataError(
                    "holds half of a surrogate pair, which is not text",
                    where=where,
                    hint="write the whole character, or leave it out",
                ) from None
    elif isinstance(value, dict):
        for name, part in value.items():
            _check_unicode(name, where)
            _check_unicode(part, where)
    elif isinstance(value, list):
        for part in value:
            _check_unicode(part, where)
