"""Files are whole or absent: temporary name in the same folder, fsync, rename.

Accepted trade-off: a file replaced while another process reads it is seen either old or new, never mixed;
a power cut between rename and the fsync of the folder may bring the old file back.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from trivet.errors import ConfigError, StoreError, TrivetError


def named_path(name: str, base: Path = Path(), *, error: type[TrivetError] = ConfigError) -> Path:
    """The path that a setting names, whether it is there or not; ``~`` is a home folder.

    Args:
        base: what a relative path is relative to.
        error: what is raised.

    Raises:
        TrivetError: no path can have this name, or it cannot be looked at: no such home folder, too long.
    """
    try:
        path = base / Path(name).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as problem:
        raise error(
            f"names no file or folder: {problem.strerror or problem}", where=name[:120], hint="check the path"
        ) from problem
    except (RuntimeError, ValueError) as problem:  # of expanduser, and of a zero byte
        raise error(
            f"names no file or folder: {problem}", where=name[:120], hint="check the path"
        ) from problem
    return path


@contextmanager
def atomic_writer(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its place when the block ends without an error.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror}", where=str(path)) from error
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            hint="nothing was left half-written; free disk space or mend the permissions and run again",
        ) from error
    finally:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()


def sync_folder(folder: Path) -> None:
    """The names in the folder are on the disk afterwards."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def only_holder(path: Path, taken: Exception, *, remove: bool = True) -> Iterator[None]:
    """Hold the lock file ``path`` within the block, which removes it where it ends without an error.

    Without ``remove`` the file stays: unlinking it would let a third process lock a new file beside a second
    that has opened the old one.

    Raises:
        StoreError: the file cannot be written.
        Exception: ``taken``, where another process holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror or error}", where=str(path)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise taken from None
        yield
        if remove:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_writer(path) as stream:
        stream.write(text)


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON with a final newline, atomically. NaN and infinity are refused.

    ``indent=None`` gives one line, which is several times faster to write for thousands of entries.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """Hexadecimal SHA-256 of ``text`` in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
