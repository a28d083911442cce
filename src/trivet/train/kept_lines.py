"""JSON lines that grow while a run goes on: whole lines survive whatever ends the process."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trivet.errors import StoreError


def read_lines(path: Path) -> list[Any]:
    """The values that a run before wrote, one a line; a last line that is not whole is cut off.

    Raises:
        StoreError: a line is not JSON, or the file cannot be read.
    """
    try:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        found = [json.loads(line) for line in whole.decode("utf-8").split("\n")[:-1]]
        if len(whole) < len(text):
            os.truncate(path, len(whole))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot be read: {error}", where=str(path), hint="remove it") from error
    return found


def append_lines(path: Path, values: Iterable[Any]) -> None:
    """Write values behind those that are there; they are on the disk afterwards.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    text = "".join(json.dumps(value) + "\n" for value in values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror or error}", where=str(path)) from error
