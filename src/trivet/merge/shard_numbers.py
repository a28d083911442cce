"""What the report says of a finished shard's tensors, kept beside it until the report holds it."""

from collections.abc import Sequence
from pathlib import Path

from trivet._files import write_json
from trivet.merge.report import JSON_FILE, TensorReport, plain
from trivet.merge.weights import read_json

_SUFFIX = ".numbers.json"


def file_name(shard: str) -> str:
    """The name of the file with a shard's numbers."""
    return f".{shard}{_SUFFIX}"


def keep(folder: Path, shard: str, tensors: Sequence[TensorReport]) -> None:
    """Write the reports of a shard's tensors.

    Raises:
        StoreError: the folder cannot be written.
    """
    write_json(folder / file_name(shard), plain({"tensors": list(tensors)}), indent=None)


def read(folder: Path) -> dict[str, TensorReport]:
    """The reports of all shards by the tensor's name.

    A run that was stopped after it had written the merge's report may have removed what was kept; then they
    are in that report.
    """
    found = {}
    report = folder / JSON_FILE
    for file in (*([report] if report.is_file() else []), *sorted(folder.glob(f".*{_SUFFIX}"))):
        for values in read_json(file)["tensors"]:
            found[values["name"]] = TensorReport(**{**values, "shape": tuple(values["shape"])})
    return found


def remove(folder: Path) -> None:
    """Remove what was kept, once the report holds it."""
    for file in folder.glob(f".*{_SUFFIX}"):
        file.unlink()
