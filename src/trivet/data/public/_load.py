"""Loading a public set: finding its files, converting and checking its rows."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from trivet._files import canonical_json, sha256_file, sha256_text
from trivet.data.public._hub import download
from trivet.data.public._registry import LeftOut, PublicSource, SourceRow, find, sources
from trivet.data.reading import read_rows
from trivet.data.rows import check_rows
from trivet.errors import DataError

REPEATED = "repeats another row"
CONTRADICTED = "another row says the contrary"


@dataclass(frozen=True)
class PublicSet:
    """A public set as loaded.

    ``revision`` is the hub's commit, or ``sha256:`` and a digest of the local files. ``left_out`` counts, by
    reason, the rows of the source that gave none.
    """

    name: str
    split: str
    kind: str
    licence: str
    source: str
    revision: str
    rows: list[dict[str, Any]]
    left_out: Mapping[str, int] = field(default_factory=dict)


def load_public(
    name: str,
    path: str | Path | None = None,
    *,
    split: str | None = None,
    revision: str | None = None,
) -> PublicSet:
    """Load a public set.

    Args:
        name: one of ``public_names()``.
        path: a file, or a folder that holds the set's files under the names that it was published with.
            ``None``: from the Hugging Face hub, through its cache.
        split: part of the set; by default its first (``find(name).splits``).
        revision: full commit (40 hexadecimal digits) of the hub's repository, where ``path`` is ``None``. May
            be left out only where ``find(name).hub.revision`` is known.

    Returns:
        Rows in the schema of the set's kind. Ids are the source's own where it has them, else derived from
        the row's content, so that they do not depend on the order of the file; they begin with the name.

    Raises:
        DataError: an unknown set or split, no file of the set, a row with a missing or wrong field (named
            with file and line), no revision, or the hub does not give the files.
    """
    source = find(name)
    split = source.splits[0] if split is None else split
    if split not in source.files:
        raise DataError(
            f"{source.name} has no split {split!r}", hint=f"its splits: {', '.join(source.splits)}"
        )
    if path is None:
        paths, revision = download(source, split, revision)
    elif revision is not None:
        raise DataError(
            "a revision belongs to the hub; a local copy is named by its content",
            where=str(path),
            hint="give either a path or a revision",
        )
    else:
        paths = _local_files(source, split, Path(path))
        revision = "sha256:" + _digest(paths)
    rows, left_out = _convert(source, paths)
    checked = check_rows(rows, source.kind)
    return PublicSet(
        source.name, split, source.kind, source.licence, source.source, revision, checked, left_out
    )


def is_public(reference: str) -> bool:
    """True where ``reference`` (as for ``load_reference``) names a public set, and is not a file itself."""
    if Path(reference).is_file():
        return False
    name = re.split(r"[/@:]", reference, maxsplit=1)[0]
    return name.replace("-", "_").lower() in sources()


def load_reference(reference: str, kind: str | None = None) -> PublicSet:
    """Load a public set by one string, as evaluations name it.

    Args:
        reference: ``NAME[/SPLIT]`` (the hub at the revision known to load), ``NAME[/SPLIT]@REVISION`` (the
            hub at this commit) or ``NAME[/SPLIT]:PATH`` (a local file or folder).
        kind: what its rows must be, where that matters.

    Raises:
        DataError: as ``load_public``; or the set holds rows of another kind.
    """
    match = re.fullmatch(r"([^/@:]+)(?:/([^/@:]+))?(?:@([^:]+)|:(.+))?", reference, re.DOTALL)
    if match is None:
        raise DataError(
            f"cannot be read as the name of a public set: {reference!r:.200}",
            hint="NAME, NAME/SPLIT, NAME@REVISION or NAME:PATH, for example gsm8k/test:/data/gsm8k",
        )
    name, split, revision, path = match.groups()
    source = find(name)
    if kind is not None and source.kind != kind:
        fitting = ", ".join(other.name for other in sources().values() if other.kind == kind)
        raise DataError(
            f"the public set {source.name} holds rows of kind {source.kind!r}, not {kind!r}",
            hint=f"public sets of kind {kind!r}: {fitting or 'none'}",
        )
    return load_public(source.name, path, split=split, revision=revision)


def _local_files(source: PublicSource, split: str, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError("no such file or folder", where=str(path))
    patterns = source.files[split]
    found = sorted(
        file for file in path.iterdir() if file.is_file() and any(fnmatch(file.name, p) for p in patterns)
    )
    if not found:
        raise DataError(
            f"holds no file of {source.name}, split {split!r}",
            where=str(path),
            hint=f"expected a name like {' or '.join(patterns)}; see {source.source}",
        )
    return found


def _digest(paths: Sequence[Path]) -> str:
    parts = [sha256_file(path) for path in paths]
    return parts[0] if len(parts) == 1 else sha256_text("".join(parts))


def _convert(
    source: PublicSource, paths: Sequence[Path]
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, int]]:
    left_out: Counter[str] = Counter()
    own: list[tuple[str, dict[str, Any]]] = []
    derived: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for path in paths:
        for where, values in read_rows(path, columns=source.columns, records=source.records):
            row = source.convert(SourceRow(values, where, path.name.split(".", 1)[0]))
            if isinstance(row, LeftOut):
                left_out[row.reason] += 1
            elif "id" in row:
                own.append((where, {**row, "id": f"{source.name}-{row['id']}"}))
            else:
                identity = f"{source.name}-{_content_id(row)}"
                derived.setdefault(identity, []).append((where, {**row, "id": identity}))
    for same in derived.values():
        if any(_key(row) != _key(same[0][1]) for _, row in same):
            left_out[CONTRADICTED] += len(same)
        else:
            own.append(same[0])
            left_out[REPEATED] += len(same) - 1
    return own, {reason: count for reason, count in left_out.items() if count}


def _key(row: Mapping[str, Any]) -> Any:
    """What the row says is right."""
    if "choices" in row:
        return row["choices"][row["answer"]]
    return row.get("answers", row.get("true"))


def _content_id(row: Mapping[str, Any]) -> str:
    """First 16 digits of a digest of what is asked: two rows that ask the same in the same words are one."""
    asked = [row[name] for name in ("prompt", "statement", "chosen", "rejected") if name in row]
    return sha256_text(canonical_json([*asked, sorted(row.get("choices", ()))]))[:16]
