"""The hidden folder that a merge is made in, and what an interrupted run leaves in it to the next one.

Left are the finished shards, what the report says of them, and the report itself where it was written
already: all else is written anew. The folder has no ``config.json``, without which nothing loads, until the
checkpoint in it is whole; the next step moves it to its place.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trivet._files import only_holder, write_json
from trivet.errors import MergeError, StoreError
from trivet.merge import shard_numbers
from trivet.merge.report import JSON_FILE
from trivet.merge.shards import Shard, is_whole
from trivet.merge.weights import INDEX, read_json

STATE = "merge_state.json"
_CONFIG = "config.json"


def staging_folder(target: Path) -> Path:
    """Where a merge is made before it moves to ``target``."""
    return target.parent / f".{target.name}.merging"


@contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Within the block, no other process makes a merge for ``target``.

    Raises:
        MergeError: another one does.
        StoreError: the folder that it would lie in cannot be written.
    """
    taken = MergeError(
        "another merge is writing it", where=str(target), hint="wait for it, or choose another folder"
    )
    with only_holder(staging_folder(target).with_name(f".{target.name}.merging.lock"), taken):
        yield


def open_staging(staging: Path, address: str, shards: Sequence[Shard]) -> None:
    """Make the folder, or leave of an interrupted run of the same merge what need not be done again.

    Raises:
        StoreError: the folder cannot be written.
    """
    state = staging / STATE
    try:
        (staging / _CONFIG).unlink(missing_ok=True)  # first: what follows takes the checkpoint apart
        if state.is_file() and read_json(state).get("address") == address:
            _leave_finished(staging, shards)
            return
        state.unlink(missing_ok=True)  # first: a folder that is half removed must not count as that merge's
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror or error}", where=str(staging)) from error
    write_json(state, {"address": address})


def _leave_finished(staging: Path, shards: Sequence[Shard]) -> None:
    kept = {STATE, JSON_FILE}
    for shard in shards:
        numbers = shard_numbers.file_name(shard.file)
        told = (staging / numbers).is_file() or (staging / JSON_FILE).is_file()
        if told and is_whole(staging, shard):
            kept |= {shard.file, numbers}
    for path in staging.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def move_into_place(staging: Path, target: Path, config: Mapping[str, Any]) -> None:
    """Give a checkpoint its configuration, which makes it one that loads, and its place.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        write_json(staging / _CONFIG, config)
        staging.rename(target)
    except BaseException as error:
        (staging / _CONFIG).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"cannot write: {error.strerror or error}", where=str(target)) from error
        raise


def lacking(folder: Path, shards: Sequence[Shard]) -> list[str]:
    """The files without which a finished checkpoint does not load, or that are shorter than they were."""
    named = [_CONFIG, *([INDEX] if len(shards) > 1 else [])]
    missing = [name for name in named if not (folder / name).is_file()]
    return missing + [shard.file for shard in shards if not is_whole(folder, shard)]
