"""From rows to Inspect samples: reading, choosing a subset, ordering."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai.dataset import MemoryDataset, Sample
from pydantic import Field, field_validator

from trivet._files import canonical_json, sha256_text
from trivet._validation import Config, did_you_mean
from trivet.data.prompts import stratified_subset
from trivet.data.public import is_public, load_reference, public_names
from trivet.data.reading import read_rows
from trivet.data.rows import check_rows
from trivet.data.suites import names, suite_rows
from trivet.errors import DataError

Prompts = int | tuple[str, ...] | str | None


class EvaluationConfig(Config):
    """What every evaluation takes."""

    prompts: Prompts = Field(
        None,
        description="how many prompts (a stratified, seeded draw; a larger number contains the smaller), "
        "or their ids; by default all",
    )
    seed: int = Field(
        0,
        description="of the draw and of the order of the samples, which is stratified too, so that stopping "
        "early leaves no category out",
    )

    @field_validator("prompts")
    @classmethod
    def _some(cls, prompts: Prompts) -> Prompts:
        if isinstance(prompts, int) and prompts < 1:
            raise ValueError("the number of prompts is 1 or more")
        return prompts


def load_rows(dataset: str, kind: str) -> list[dict[str, Any]]:
    """Rows of a suite that ships, of a public set, or of a file of the user's own with the same fields.

    Args:
        dataset: name of a suite; a public set as ``NAME:PATH``, ``NAME@COMMIT`` or ``NAME``
            (``trivet.data.public``); or the path of a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file.
        kind: what its rows must be (``trivet.data.rows.ROW_TYPES``).

    Raises:
        DataError: no such suite, set or file, no rows, a row lacks a field; it names file and line.
    """
    if dataset in names():
        rows = suite_rows(dataset)
        if dataset == kind:
            return rows
        return check_rows(((f"suite {dataset}, row {i}", row) for i, row in enumerate(rows, 1)), kind)
    if is_public(dataset):
        return load_reference(dataset, kind).rows
    if not Path(dataset).suffix:
        raise DataError(
            f"there is no suite or public set {dataset!r}",
            hint=f"{did_you_mean(dataset, (*names(), *public_names()))} "
            "A file is named with its suffix, such as my.jsonl",
        )
    return check_rows(read_rows(dataset), kind)


def choose(rows: Sequence[dict[str, Any]], prompts: Prompts, seed: int) -> list[dict[str, Any]]:
    """The wanted rows in a stratified, seeded order (by ``stratum`` where a row has one, else ``category``).

    Raises:
        DataError: a wanted id is not there, or an id is given twice.
    """
    keyed = [{"stratum": row["category"], **row} for row in rows]
    if isinstance(prompts, str):
        prompts = (prompts,)
    if isinstance(prompts, tuple):
        known = {row["id"] for row in keyed}
        for wanted in prompts:
            if wanted not in known:
                raise DataError(
                    f"there is no prompt with the id {wanted!r}", hint=did_you_mean(wanted, known)
                )
        keyed = [row for row in keyed if row["id"] in set(prompts)]
        prompts = None
    ordered = stratified_subset(keyed, len(keyed) if prompts is None else prompts, key="stratum", seed=seed)
    return [dict(row) for row in ordered]


def sample(
    row: dict[str, Any],
    component: str,
    *,
    prompt: str | None = None,
    target: str | list[str] = "",
    choices: list[str] | None = None,
    **metadata: Any,
) -> Sample:
    """An Inspect sample with what the statistics need in its metadata.

    ``cluster`` is the unit of inference: the row's own ``cluster`` where its metadata names one, else its id.
    """
    own = row.get("metadata") or {}
    return Sample(
        id=row["id"],
        input=row["prompt"] if prompt is None else prompt,
        target=target,
        choices=choices,
        metadata={
            "component": component,
            "cluster": str(own.get("cluster", row["id"])),
            "category": row["category"],
            **metadata,
        },
    )


def dataset_of(samples: Sequence[Sample], name: str, location: str) -> MemoryDataset:
    """An Inspect data set.

    Raises:
        DataError: it would be empty.
    """
    if not samples:
        raise DataError("the data set has no rows", where=location)
    return MemoryDataset(list(samples), name=name, location=location)


def rows_digest(rows: Sequence[dict[str, Any]]) -> str:
    """Hexadecimal SHA-256 of rows in the order of their ids."""
    return sha256_text(canonical_json(sorted(rows, key=lambda row: str(row["id"]))))
