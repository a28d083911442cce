"""Writing a checkpoint whose header is known in advance: every block goes straight to its place.

A shard is written under a temporary name and gets its own when all its tensors are on disk, so a shard with
its name is whole. The index comes last.
"""

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from trivet._files import write_json
from trivet.errors import StoreError
from trivet.merge.weights import INDEX, NAMES

_ALIGNMENT = 8


@dataclass(frozen=True)
class Planned:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """One file of the output and its tensors."""

    file: str
    tensors: tuple[Planned, ...]

    @property
    def bytes(self) -> int:
        """Size of its tensors."""
        return sum(tensor.bytes for tensor in self.tensors)


def plan_shards(tensors: Sequence[Planned], shard_bytes: int) -> list[Shard]:
    """Tensors in their order, cut into files of at most ``shard_bytes`` (a larger tensor has its own)."""
    groups: list[list[Planned]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.bytes
    if len(groups) == 1:
        return [Shard("model.safetensors", tuple(groups[0]))]
    return [
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def is_whole(folder: Path, shard: Shard) -> bool:
    """Whether a shard's file is there with all its bytes."""
    path = folder / shard.file
    return path.is_file() and path.stat().st_size == _header(shard)[2]


def _header(shard: Shard) -> tuple[bytes, dict[str, int], int]:
    """The file's first bytes, where each tensor begins after them, and the size of the file."""
    # Tensors of wide types first, so that each begins at a multiple of its own width.
    ordered = sorted(shard.tensors, key=lambda tensor: -tensor.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    places: dict[str, int] = {}
    for tensor in ordered:
        places[tensor.name] = at
        header[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.bytes],
        }
        at += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    head = struct.pack("<Q", len(text)) + text
    return head, places, len(head) + at


class ShardWriter:
    """Writes one shard; a context manager. Threads may share it.

    Leaving the block without an error gives the file its name; with an error the temporary file goes.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self._target = folder / shard.file
        self._temporary = folder / f".{shard.file}.partial"
        self._head, places, self._size = _header(shard)
        self._places = {name: len(self._head) + place for name, place in places.items()}
        self._descriptor = -1

    def __enter__(self) -> "ShardWriter":
        try:
            self._descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            if self._size:
                os.posix_fallocate(self._descriptor, 0, self._size)
            _write_all(self._descriptor, memoryview(self._head), 0)
        except OSError as error:
            self._drop()
            raise _disk_error(error, self._target) from error
        return self

    def write(self, name: str, first: int, values: torch.Tensor) -> None:
        """Write ``values`` (of the tensor's type, contiguous) from element ``first`` of a tensor on."""
        if values.numel() == 0:
            return
        data = memoryview(values.contiguous().view(torch.uint8).numpy().data).cast("B")
        at = self._places[name] + first * values.dtype.itemsize
        try:
            _write_all(self._descriptor, data, at)
        except OSError as error:
            raise _disk_error(error, self._target) from error

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._drop()
            return
        try:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._temporary.replace(self._target)
        except OSError as failure:
            self._drop()
            raise _disk_error(failure, self._target) from failure

    def _drop(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._temporary.unlink(missing_ok=True)


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """The index of several shards; one shard needs none."""
    if len(shards) < 2:
        return
    placed = {tensor.name: shard.file for shard in shards for tensor in shard.tensors}
    total = sum(shard.bytes for shard in shards)
    write_json(
        folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
    )


def _write_all(descriptor: int, data: memoryview, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], at + done)


def _disk_error(error: OSError, path: Path) -> StoreError:
    return StoreError(
        f"cannot write: {error.strerror or error}",
        where=str(path),
        hint="free disk space or mend the permissions and run it again; finished shards are kept",
    )
