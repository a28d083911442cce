"""One driver a store: a lock file that names who holds it.

The lock is the kernel's (``flock``), so it ends with the process that holds it, however that process ends;
the file's text only says who it was. Accepted trade-off: without ``flock`` (some network file systems)
drivers on two machines are not kept apart.
"""

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO

from trivet.errors import StoreError


class DriverLock:
    """Held by the process that writes to the store.

    Raises:
        StoreError: another living process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._stream: IO[str] | None = None

    def __enter__(self) -> "DriverLock":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stream = self.path.open("a+", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot be opened: {error.strerror}", where=str(self.path)) from None
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read().strip()
            stream.close()
            raise StoreError(
                f"another process works on this store ({_describe(holder)})",
                where=str(self.path.parent),
                hint="wait until it has finished, or end it; the lock of a dead process is free",
            ) from None
        try:
            stream.seek(0)
            stream.truncate()
            since = datetime.now(UTC).isoformat(timespec="seconds")
            stream.write(
                json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}) + "\n"
            )
            stream.flush()
        except OSError as error:
            stream.close()
            raise StoreError(
                f"cannot be written: {error.strerror}", where=str(self.path), hint="free disk space"
            ) from None
        self._stream = stream
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            # The file stays: unlinking it would let a third process lock a new file beside a waiting second.
            self._stream.close()
            self._stream = None

    @property
    def held(self) -> bool:
        """True while this object holds the lock."""
        return self._stream is not None


def _describe(holder: str) -> str:
    try:
        record = json.loads(holder)
        return f"process {record['pid']} on {record['host']} since {record['since']}"
    except (ValueError, KeyError, TypeError):
        return "its name is not known yet"
