"""Reading tensors of a checkpoint by rows, without holding or mapping its files.

A safetensors file is a header (its length in 8 bytes, then JSON) and the tensors' bytes, so a block of rows
is one ``pread`` at a known offset. A memory map would do the same, but the pages it touches count as the
process's memory, which would then grow with the model.
"""

import json
import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch

from trivet.errors import MergeError, ModelError
from trivet.merge.layers import OUTPUT_LAYER, VOCABULARY

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_COMPARED = 2**20  # elements that are compared at a time
_LARGEST_HEADER = 100_000_000  # as the safetensors library allows
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: its bytes are ``start`` … ``end`` of ``file``."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def floating(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype.is_floating_point

    @property
    def columns(self) -> int:
        """Length of the last dimension."""
        return self.shape[-1] if self.shape else 1


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file.

    Raises:
        ModelError: it is damaged or truncated; names the file.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            (length,) = struct.unpack("<Q", prefix) if len(prefix) == 8 else (0,)
            if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise ValueError("its header is not there")
            header = json.loads(stream.read(length).decode("utf-8"))
            return _entries(header, file, 8 + length, size)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=str(file)) from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(
            f"is not a whole safetensors file: {error}", where=str(file), hint="fetch the file again"
        ) from None


def _entries(header: Mapping[str, Any], file: Path, data: int, size: int) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        dtype = DTYPES.get(info["dtype"])
        if dtype is None:
            raise ValueError(f"{name} has the type {info['dtype']}, which is not known")
        shape = tuple(int(length) for length in info["shape"])
        start, end = (int(offset) for offset in info["data_offsets"])
        if min((*shape, 0)) < 0 or start < 0 or end - start != prod(shape) * dtype.itemsize:
            raise ValueError(f"the bytes of {name} do not fit its shape")
        if data + end > size:
            raise ValueError(f"it ends before {name} does ({size:,} bytes, {data + end:,} are needed)")
        found[name] = Entry(file, dtype, shape, data + start, data + end)
    return found


class TensorFiles:
    """Reads rows of the tensors in safetensors files. Threads may share it."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self.entries = entries
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def read(self, name: str, row: int = 0, rows: int | None = None) -> torch.Tensor:
        """Rows ``row`` … of a tensor, seen as [rows, columns], in float32.

        Raises:
            ModelError: the file cannot be read, or has become shorter.
        """
        return self.read_raw(name, row, rows).to(torch.float32)

    def read_raw(self, name: str, row: int = 0, rows: int | None = None) -> torch.Tensor:
        """As ``read``, in the type that is stored."""
        entry = self.entries[name]
        width = entry.columns * entry.dtype.itemsize
        count = prod(entry.shape[:-1]) - row if rows is None else rows
        values = torch.empty(count, entry.columns, dtype=entry.dtype)
        view = (
            memoryview(values.view(-1).view(torch.uint8).numpy().data) if count * width else memoryview(b"")
        )
        at, done = entry.start + row * width, 0
        while done < len(view):
            got = os.preadv(self._descriptor(entry.file), [view[done:]], at + done)
            if got <= 0:
                raise ModelError("has become shorter while it was read", where=str(entry.file))
            done += got
        return values

    def _descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                self._descriptors[file] = os.open(file, os.O_RDONLY)
            return self._descriptors[file]

    def close(self) -> None:
        """Close its files."""
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()


class Weights(TensorFiles):
    """A Hugging Face folder of safetensors files, one or several with an index.

    Raises:
        ModelError: a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(_all_entries(folder))
        self.folder = folder
        self.config: dict[str, Any] = read_json(folder / "config.json")

    @property
    def files(self) -> list[Path]:
        """The files that hold tensors."""
        return sorted({entry.file for entry in self.entries.values()})

    @cached_property
    def output_layer(self) -> str | None:
        """The name of the output layer, where one is stored."""
        return next((name for name in self.entries if OUTPUT_LAYER.search(name)), None)

    @cached_property
    def embedding(self) -> str | None:
        """The name of the embedding of tokens, where one is stored."""
        names = (name for name in self.entries if VOCABULARY.search(name) and name.endswith(".weight"))
        return next((name for name in names if not OUTPUT_LAYER.search(name)), None)

    @cached_property
    def tied(self) -> bool:
        """Whether the output layer is the embedding, as transformers has it.

        Its configurations leave out what is their class's default, which is true for GPT-2 and Gemma. An
        output layer that is stored and differs from the embedding is one of its own, whatever they say.
        """
        said = self._said_to_be_tied()
        if self.output_layer is None:
            return said is not False
        if said is None:
            said = _tied_by_default(self.config.get("model_type"))
        return said and self.embedding is not None and self._equal(self.output_layer, self.embedding)

    def _said_to_be_tied(self) -> bool | None:
        for holder in (self.config, self.config.get("text_config")):
            if isinstance(holder, dict) and holder.get("tie_word_embeddings") is not None:
                return bool(holder["tie_word_embeddings"])
        return None

    def _equal(self, one: str, other: str) -> bool:
        """Whether two tensors are the same byte for byte; the first difference ends the reading."""
        first, second = self.entries[one], self.entries[other]
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            return False
        rows, step = prod(first.shape[:-1]), max(1, _COMPARED // max(1, first.columns))
        return all(
            torch.equal(
                *(self.read_raw(name, row, min(step, rows - row)).view(torch.uint8) for name in (one, other))
            )
            for row in range(0, rows, step)
        )


def _tied_by_default(model_type: Any) -> bool:
    """What transformers takes where a configuration says nothing; false for types that it does not know."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # slow, and seldom needed

    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return False
    return bool(getattr(CONFIG_MAPPING[model_type], "tie_word_embeddings", False))


def _all_entries(folder: Path) -> dict[str, Entry]:
    index = folder / INDEX
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelError("holds no *.safetensors weights", where=str(folder))
        entries: dict[str, Entry] = {}
        for file in files:
            entries |= read_header(file)
        return entries
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict):
        raise ModelError("has no weight_map", where=str(index))
    headers: dict[str, dict[str, Entry]] = {}
    for name, file_name in placed.items():
        if Path(str(file_name)).name != file_name:
            raise ModelError(f"points outside its folder: {file_name!r}", where=str(index))
        if file_name not in headers:
            headers[file_name] = read_header(folder / file_name)
        if name not in headers[file_name]:
            raise ModelError(f"says that {file_name} holds {name}; it does not", where=str(index))
    return {name: headers[file_name][name] for name, file_name in placed.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file whose top level is a mapping.

    Raises:
        ModelError: it is missing or is not that.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"cannot be read: {said}", where=str(path)) from None
    if not isinstance(value, dict):
        raise ModelError("must be a mapping", where=str(path))
    return value


def same_shape(name: str, first: Entry, other: Entry, where: str) -> None:
    """Refuse two tensors of different shapes.

    Raises:
        MergeError: they differ.
    """
    if first.shape != other.shape:
        raise MergeError(
            f"{name} has the shape {list(other.shape)}, not {list(first.shape)}",
            where=where,
            hint="the models must be of one architecture and size",
        )
