"""The cache of models: where it lies, its lock files, and remembered hashes.

Nothing in it is precious: it may be deleted at any time and is filled again when needed.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from trivet._files import sha256_file, write_json
from trivet.errors import StoreError


def cache_folder() -> Path:
    """``TRIVET_CACHE`` where it is set, otherwise the user's cache folder."""
    chosen = os.environ.get("TRIVET_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("trivet"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` between processes; waits for whoever holds it.

    Raises:
        StoreError: the lock file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror}", where=str(path)) from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a file, remembered by its path, size and time of change so that weights are read once."""
    path = path.resolve()
    state = path.stat()
    key = f"{path}|{state.st_size}|{state.st_mtime_ns}"
    file = cache_folder() / "hashes.json"
    known = _read_hashes(file)
    if key not in known:
        value = sha256_file(path)
        with locked(file.with_suffix(".lock")):
            known = {
                old: digest
                for old, digest in _read_hashes(file).items()
                if not old.startswith(f"{path}|") and Path(old.split("|", 1)[0]).exists()
            }
            write_json(file, {**known, key: value})
        return value
    return known[key]


def _read_hashes(file: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        value = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return {str(key): str(digest) for key, digest in value.items()}
    return {}
