"""Prompts in three disjoint parts: those that train, those that choose, and those that test once."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trivet.errors import DataError
from trivet.train.prompts import Prompt, read_prompts
from trivet.train.sources import left_out_notes


@dataclass(frozen=True)
class SetAside:
    """``safety``: prompts of the test; ``validation``: prompts of a source of their own, empty where they are
    drawn from the data. No prompt is in both. ``digests``: of all of them, which must not train."""

    safety: list[Prompt]
    validation: list[Prompt]
    notes: list[str]

    @property
    def digests(self) -> frozenset[str]:
        """Of what they ask."""
        return frozenset(one.digest for one in (*self.safety, *self.validation))


def set_aside(data: str, safety: int | str, validation: str | None, *, base: Path, seed: int) -> SetAside:
    """Draw or read the prompts that do not train.

    Args:
        data: the source that trains.
        safety: how many prompts of ``data``, drawn by the seed, or another source.
        validation: another source, or ``None``.

    Raises:
        DataError: a source cannot be read, or nothing would be left.
    """
    found = read_prompts(safety if isinstance(safety, str) else data, base=base)
    notes = []
    if isinstance(safety, str):
        kept = list(found.prompts)
        notes += [f"safety prompts: {note}" for note in left_out_notes(found.left_out)]
    else:
        if safety >= len(found.prompts):
            raise DataError(
                f"safety: {safety} of {len(found.prompts)} prompts leaves none to train on", where=data
            )
        # A generator of its own, so that what is held out besides is drawn independently.
        rows = sorted(random.Random(f"safety {seed}").sample(range(len(found.prompts)), safety))
        kept = [found.prompts[row] for row in rows]
    tested = {one.digest for one in kept}
    chosen: Sequence[Prompt] = () if validation is None else read_prompts(validation, base=base).prompts
    apart = [one for one in chosen if one.digest not in tested]
    if len(apart) < len(chosen):
        notes.append(f"{len(chosen) - len(apart)} validation prompts left out: they are safety prompts")
    notes.append(f"{len(kept)} prompts for the safety test; none of them trains or chooses")
    return SetAside(kept, apart, notes)


def ledger_folder(source: str, base: Path) -> Path:
    """Where the ledger of a source's prompts lies unless settings say: beside it, as for ``trivet gate``."""
    for name in (source, source.partition(":")[2]):
        path = base / Path(name).expanduser()
        if name and path.exists():
            return path.with_name(f"{path.name}.gate")
    return base / f"{source.replace('/', '--').replace(':', '-')}.gate"
