"""A fitted judge on disk: one safetensors file with a JSON header, a card (Markdown) beside it.

``NAME.safetensors`` holds the weights and, under the metadata key ``trivet``, a JSON object: ``kind`` (which
judge reads it), ``format`` (raised when the meaning changes), and what the judge needs to know. The digests
of the prompts it was fitted on lie in ``NAME.prompts.safetensors`` (uint8 [prompts, 32], sorted), so that the
judge itself stays small; ``NAME.md`` is the card for people.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save

from trivet._files import atomic_writer, canonical_json, sha256_file, sha256_text
from trivet.errors import JudgeError

SHIPPED = Path(__file__).parent / "artifacts"
"""The folder of the judges that ship."""

_KEY = "trivet"


class Header(NamedTuple):
    """What a file says of itself: the kind of judge, the version of its format, and its own fields."""

    kind: str
    format: int
    fields: dict[str, Any]


def read_header(path: Path) -> Header:
    """The header of a fitted judge.

    Raises:
        JudgeError: the file is missing, is not safetensors, is damaged, or is not a judge.
    """
    return _open(path)[0]


def read_artifact(path: Path, kind: str, format: int) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Header and tensors of a fitted judge of the given kind and format.

    Raises:
        JudgeError: as ``read_header``; or it is of another kind or of a newer format.
    """
    header, tensors = _open(path)
    if header.kind != kind:
        raise JudgeError(f"holds a judge of kind {header.kind!r}, not {kind!r}", where=str(path))
    if header.format != format:
        raise JudgeError(
            f"has format {header.format}, this version of Trivet reads format {format}",
            where=str(path),
            hint="fit it again with `trivet judges fit`, or use the version of Trivet that wrote it",
        )
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise JudgeError(f"the tensor {name!r} holds NaN or infinity", where=str(path))
    return header, tensors


def _open(path: Path) -> tuple[Header, dict[str, NDArray[Any]]]:
    path = Path(path)
    if not path.is_file():
        raise JudgeError("no such file", where=str(path), hint="fit one with `trivet judges fit`")
    try:
        with safetensors.safe_open(path, framework="numpy") as stream:
            metadata: Mapping[str, str] = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise JudgeError(
            f"is not a readable safetensors file: {error}",
            where=str(path),
            hint="the file may be cut short; copy it again or fit it again with `trivet judges fit`",
        ) from None
    try:
        fields = json.loads(metadata[_KEY])
        header = Header(str(fields.pop("kind")), int(fields.pop("format")), fields)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise JudgeError(
            "is a safetensors file, but not a judge",
            where=str(path),
            hint="judges come from `trivet judges fit`",
        ) from None
    return header, tensors


def write_artifact(
    path: Path,
    header: Header,
    tensors: Mapping[str, NDArray[Any]],
    *,
    training_prompts: Iterable[str],
    card: str,
) -> None:
    """Write the judge, the digests of its training prompts and its card; the judge itself comes last.

    Equal input gives equal bytes.

    Raises:
        StoreError: the files cannot be written.
    """
    path = Path(path)
    digests = sorted({bytes.fromhex(digest) for digest in training_prompts})
    table = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(digests), 32)
    _write(prompts_path(path), save({"sha256": table}))
    _write(path.with_suffix(".md"), card.encode())
    fields = {"kind": header.kind, "format": header.format, **header.fields}
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    _write(path, save(ordered, metadata={_KEY: canonical_json(fields)}))


def _write(path: Path, data: bytes) -> None:
    with atomic_writer(path, "wb") as stream:
        stream.write(data)


def prompts_path(path: Path) -> Path:
    """Where the digests of the training prompts of the judge at ``path`` lie."""
    return path.with_suffix(".prompts.safetensors")


def read_training_prompts(path: Path) -> frozenset[str]:
    """SHA-256 (hexadecimal) of the normalised prompts that the judge at ``path`` was fitted on.

    Raises:
        JudgeError: the file of digests is missing or damaged: without it no one can tell whether a study
            measures with a judge that was fitted on its own prompts.
    """
    beside = prompts_path(path)
    try:
        with safetensors.safe_open(beside, framework="numpy") as stream:
            table = stream.get_tensor("sha256")
    except (safetensors.SafetensorError, OSError) as error:
        raise JudgeError(
            f"the digests of the judge's training prompts cannot be read: {error}",
            where=str(beside),
            hint="keep this file beside the judge, or fit the judge again",
        ) from None
    if table.dtype != np.uint8 or table.ndim != 2 or table.shape[1] != 32:
        raise JudgeError("must hold uint8 [prompts, 32]", where=str(beside))
    return frozenset(row.tobytes().hex() for row in table)


def artifact_identity(path: Path, version: int) -> str:
    """Digest of the file and of the version of the code that reads it."""
    return sha256_text(canonical_json([version, sha256_file(path)]))
