"""Prompts in three disjoint parts: those that train, those that choose, and those that test once."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from trivet._files import named_path
from trivet.data.public import is_public
from trivet.errors import DataError, StudyError
from trivet.train.prompts import Prompt, read_prompts
from trivet.train.sources import left_out_notes


@dataclass(frozen=True)
class SetAside:
    """``safety``: prompts of the test; ``validation``: prompts of a source of their own, empty where they are
    drawn from the data. No prompt is in both. ``digests``: of all of them, which must not train.
    ``left_out``: by reason, how many prompts could not be drawn for the test."""

    safety: list[Prompt]
    validation: list[Prompt]
    notes: list[str]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def digests(self) -> frozenset[str]:
        """Of what they ask."""
        return frozenset(one.digest for one in (*self.safety, *self.validation))


def set_aside(
    data: str,
    safety: int | str,
    validation: str | None,
    *,
    base: Path,
    seed: int,
    known: Mapping[str, frozenset[str]] | None = None,
) -> SetAside:
    """Draw or read the prompts that do not train.

    Args:
        data: the source that trains.
        safety: how many prompts of ``data``, drawn by the seed, or another source.
        validation: another source, or ``None``.
        known: by whom, digests of prompts that were learnt from before. None of them tests: they are not
            drawn, and a source of safety prompts that has one is refused.

    Raises:
        DataError: a source cannot be read, or nothing would be left.
        StudyError: safety prompts are known to the model or to the judge that rewards it.
    """
    found = read_prompts(safety if isinstance(safety, str) else data, base=base)
    notes: list[str] = []
    left_out: dict[str, int] = {}
    met = {
        name: sum(one.digest in digests for one in found.prompts) for name, digests in (known or {}).items()
    }
    if isinstance(safety, str):
        _refuse_known(met, safety, "take safety prompts that neither the model nor its judge learnt from")
        kept = list(found.prompts)
        notes += [f"safety prompts: {note}" for note in left_out_notes(found.left_out)]
    else:
        if safety >= len(found.prompts):
            raise DataError(
                f"safety: {safety} of {len(found.prompts)} prompts leaves none to train on", where=data
            )
        everyone = frozenset[str]().union(*(known or {}).values())
        fresh = [one for one in found.prompts if one.digest not in everyone]
        if len(fresh) < safety:
            hint = (
                f"{len(fresh)} prompts of the data are left for the test; name a source of others in safety"
            )
            _refuse_known(met, data, hint)
        left_out = {f"{name} learnt from them before": count for name, count in met.items() if count}
        # A generator of its own, so that what is held out besides is drawn independently.
        rows = sorted(random.Random(f"safety {seed}").sample(range(len(fresh)), safety))
        kept = [fresh[row] for row in rows]
        notes += [f"{count} prompts cannot test: {reason}" for reason, count in left_out.items()]
    tested = {one.digest for one in kept}
    chosen: Sequence[Prompt] = () if validation is None else read_prompts(validation, base=base).prompts
    apart = [one for one in chosen if one.digest not in tested]
    if len(apart) < len(chosen):
        notes.append(f"{len(chosen) - len(apart)} validation prompts left out: they are safety prompts")
    notes.append(f"{len(kept)} prompts for the safety test; none of them trains or chooses")
    return SetAside(kept, apart, notes, left_out)


def _refuse_known(met: Mapping[str, int], where: str, hint: str) -> None:
    for name, count in met.items():
        if count:
            raise StudyError(
                f"circular: {count} of the prompts for the safety test are among those that trained {name}",
                where=where,
                hint=hint,
            )


def ledger_folder(source: str, base: Path) -> Path:
    """Where the ledger of a source's prompts lies unless settings say.

    It is beside the file or folder that the source is, as for ``trivet gate``, also where a link names that;
    for a set of the hub it is in the user's data folder, one for all splits of the set.

    Raises:
        DataError: there is no such file.
    """
    for name in (source, source.partition(":")[2]):
        path = named_path(name, base, error=DataError).resolve()
        if name and path.exists():
            return path.with_name(f"{path.name}.gate")
    name = source.partition(":")[0]
    if is_public(source):
        name = re.split(r"[/@:]", source, maxsplit=1)[0].replace("-", "_").lower()
    elif "/" not in source:
        raise DataError("no such file", where=str(base / source))
    return Path(platformdirs.user_data_dir("trivet")) / "ledgers" / f"{name.replace('/', '--')}.gate"
