"""What a merge did, as data: for each tensor the method, how much was kept, and how the experts agreed.

``merge_report.json`` is the whole of it for programs; ``report_page`` makes the page for people, ``card`` the
model card.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from trivet import _files

JSON_FILE = "merge_report.json"

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the output. ``None`` stands for what its method or its models do not have.

    ``density`` is the share of each expert's task vector that the method kept, ``ranks`` how many singular
    vectors; ``cosines`` [experts, experts] and ``conflicts`` (share of places where two non-zero ones
    disagree in sign) are of the task vectors, ``relative_norms`` their norms over the base's. ``condition``
    is the smallest singular value of the experts' joined singular vectors. ``settings`` are the method's, as
    they held for this tensor.
    ``sampled`` is how many elements the diagnostics looked at; ``None`` for all. ``experts`` names the models
    that the lists are about; empty where they are those of the merge in its order.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    elements: int
    density: list[float] | None = None
    ranks: list[int] | None = None
    cosines: list[list[float | None]] | None = None
    conflicts: float | None = None
    relative_norms: list[float | None] | None = None
    condition: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    sampled: int | None = None
    experts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MergeReport:
    """One merge.

    ``recipe_text`` is the recipe's file as it was. ``models`` has the identity (hexadecimal SHA-256) of each
    model by its name in the recipe (that of its tokenizer where nothing else of it is used), ``hub_ids`` the
    id on the Hugging Face hub of those that came from there. ``bytes_read`` and ``bytes_written`` are of the
    whole merge, ``seconds`` of the run that finished it; ``versions`` of the software.
    """

    recipe_text: str
    method: str
    base: str | None
    experts: list[str]
    models: dict[str, str]
    output_dtype: str
    seconds: float
    bytes_read: int
    bytes_written: int
    seed: int
    versions: dict[str, str]
    tensors: list[TensorReport]
    warnings: list[str] = field(default_factory=list)
    hub_ids: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Means over the tensors that have the number, weighted by their elements.

    ``density`` and ``relative_norms`` have one number for each expert, ``cosines`` [experts, experts] one for
    each pair; ``warnings`` counts those of the tensors and of the merge.
    """

    tensors: int
    elements: int
    density: list[float | None] | None
    cosines: list[list[float | None]] | None
    conflicts: float | None
    relative_norms: list[float | None] | None
    warnings: int


def summarise(report: MergeReport) -> Summary:
    """The merge in a few numbers."""
    tensors, names = report.tensors, report.experts
    places = [[_place(tensor.experts or names, name) for name in names] for tensor in tensors]

    def each(of_tensors: Sequence[Sequence[float | None] | None]) -> list[float | None]:
        """The mean for each expert of what the tensors have for it."""
        return [
            weighted_mean(
                tensors, [_at(values, own[expert]) for values, own in zip(of_tensors, places, strict=True)]
            )
            for expert in range(len(names))
        ]

    rows = [
        each([_at(tensor.cosines, own[row]) for tensor, own in zip(tensors, places, strict=True)])
        for row in range(len(names))
    ]
    return Summary(
        len(tensors),
        sum(tensor.elements for tensor in tensors),
        _unless_empty(each([tensor.density for tensor in tensors])),
        _unless_empty(rows),
        weighted_mean(tensors, [tensor.conflicts for tensor in tensors]),
        _unless_empty(each([tensor.relative_norms for tensor in tensors])),
        len(report.warnings) + sum(len(tensor.warnings) for tensor in tensors),
    )


def _place(names: Sequence[str], name: str) -> int | None:
    """Where an expert stands among a tensor's."""
    return names.index(name) if name in names else None


def weighted_mean(tensors: Sequence[TensorReport], values: Sequence[float | None]) -> float | None:
    """The mean of the numbers that tensors have, weighted by their elements; ``None`` where none has one.

    Args:
        values: one for each tensor.
    """
    total, weight = 0.0, 0
    for tensor, value in zip(tensors, values, strict=True):
        if value is not None and math.isfinite(value):
            total += value * tensor.elements
            weight += tensor.elements
    return total / weight if weight else None


def pairs(cosines: Sequence[Sequence[float | None]] | None) -> list[float]:
    """The cosines of all pairs of different experts that have one."""
    return [
        cosine
        for row, line in enumerate(cosines or ())
        for cosine in line[row + 1 :]
        if cosine is not None and math.isfinite(cosine)
    ]


def write_json(report: MergeReport, folder: Path) -> Path:
    """Write ``merge_report.json`` to ``folder``, with the summary; returns its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / JSON_FILE
    _files.write_json(path, plain({"summary": summarise(report), **vars(report)}), indent=None)
    return path


def _at(values: Any, place: int | None) -> Any:
    """``values[place]`` where there is one."""
    return values[place] if values is not None and place is not None and place < len(values) else None


def _unless_empty(values: list[Entry]) -> list[Entry] | None:
    """``values``, or ``None`` where there is no number in them, however deep."""

    def has_number(value: Any) -> bool:
        return any(map(has_number, value)) if isinstance(value, list) else value is not None

    return values if has_number(values) else None


def plain(value: Any) -> Any:
    """``value`` as strict JSON has it: no data classes, no NaN, no lone surrogates (from names of files)."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {plain(str(key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, int) else str(value)
