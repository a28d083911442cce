"""The ledger of safety tests: which prompts have been looked at, under which limit and δ.

A folder with ``ledger.jsonl``: one JSON object a line, appended and flushed to disk before what it announces
is done. A test has three lines: ``declared`` (before the prompts are read: limit, δ, split, bound, cost,
system, seed), ``begun`` (before the first answer: digests of the prompts) and ``finished`` (the result). A
test that was begun is a look at its prompts, whatever became of it; only the very same test may go on.
Prompts are the same where their normalised texts are, in whichever file and order they lie. A line carries
the check of the line before it, so that one which was changed, moved or taken out is noticed.

Accepted trade-offs: whoever deletes the ledger, or cuts lines off its end, takes its memory; keep it under
version control beside the prompts. Two branches in which tests were made cannot be merged line by line.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from trivet._files import canonical_json, only_holder, sha256_text
from trivet.errors import StoreError, StudyError

FORMAT = 2
"""Of the lines that are written. Those of format 1, of older ledgers, do not tell the line before them."""
_DIGITS = 16


class Look(NamedTuple):
    """A test that was begun. ``result`` is ``None`` where it was not finished."""

    declaration: str
    prompts: str
    digests: frozenset[str]
    declared: Mapping[str, Any]
    time: str
    result: Mapping[str, Any] | None


def prompts_digest(digests: Iterable[str]) -> str:
    """One digest of a set of prompts, whatever their order."""
    return sha256_text("\n".join(sorted(digests)))


def ledger_lock(folder: Path) -> AbstractContextManager[None]:
    """Hold the ledger in ``folder`` within the block; its lock file stays.

    Raises:
        StoreError: the folder cannot be written.
        StudyError: another process holds it.
    """
    taken = StudyError(
        "another test is using this ledger",
        where=str(folder),
        hint="wait until it has finished, or end it; the lock of a dead process is free",
    )
    return only_holder(Path(folder) / "lock", taken, remove=False)


class Ledger:
    """The ledger in ``folder``; opening it drops a last line that a kill cut short. Use under a
    ``ledger_lock``.

    Raises:
        StoreError: it cannot be read, or a line is damaged: then nobody knows what was looked at.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / "ledger.jsonl"
        self._declared: dict[str, dict[str, Any]] = {}
        self._looks: dict[tuple[str, str], Look] = {}
        self._whole = 0
        self._last = ""  # the check of the last line
        self._load()

    @property
    def looks(self) -> list[Look]:
        """The tests that were begun, oldest first."""
        return list(self._looks.values())

    def declare(self, declaration: Mapping[str, Any]) -> str:
        """Write down a test before its prompts are read; returns its id. An equal one is written once."""
        name = sha256_text(canonical_json(declaration))[:_DIGITS]
        if name not in self._declared:
            self._append({"event": "declared", "id": name, "test": dict(declaration)})
        return name

    def admit(self, declaration: str, digests: Sequence[str]) -> Look | None:
        """May this test look at these prompts? The look itself where it was begun before.

        A new look is admitted where no earlier one shares a prompt with it, or where all that do were
        declared with the same δ and the same split of it, and are fewer than that split.

        Raises:
            StudyError: it may not; names the earlier test.
        """
        own = self._looks.get((declaration, prompts_digest(digests)))
        if own is not None:
            return own
        short, test = {digest[:_DIGITS] for digest in digests}, self._declared[declaration]
        earlier = [look for look in self._looks.values() if look.digests & short]
        for look in earlier:
            if (look.declared["delta"], look.declared["split"]) != (test["delta"], test["split"]):
                other = f"delta {look.declared['delta']:g} and split {look.declared['split']}"
                own_terms = f"{test['delta']:g} and {test['split']}"
                raise self._refusal(
                    look, short, f"that test was declared with {other}, this one with {own_terms}"
                )
        if len(earlier) >= test["split"]:
            why = f"tests allowed on one set of prompts: {test['split']}, looks so far: {len(earlier)}"
            raise self._refusal(earlier[-1], short, why)
        return None

    def _refusal(self, look: Look, short: set[str], why: str) -> StudyError:
        state = "was begun and not finished"
        if look.result is not None:
            state = "passed" if look.result.get("passed") else "found no solution"
        shared = len(look.digests & short)
        return StudyError(
            f"{shared} of the {len(short)} prompts were used before, by a test of "
            f"{look.declared['system']} that {state} ({look.time}); {why}",
            where=str(self.path),
            hint="take prompts that no test has seen; several tests on one set need --split K from the first "
            "on (split: K in training), which divides delta by K. An interrupted test goes on with its own "
            "system, limit and delta",
        )

    def begin(self, declaration: str, digests: Sequence[str]) -> Look:
        """Write down that the test looks at these prompts, before it does."""
        self._append(
            {
                "event": "begun",
                "id": declaration,
                "prompts": prompts_digest(digests),
                "digests": sorted(digest[:_DIGITS] for digest in digests),
            }
        )
        return self._looks[declaration, prompts_digest(digests)]

    def finish(self, look: Look, result: Mapping[str, Any]) -> None:
        """Write down the result of a look."""
        self._append(
            {"event": "finished", "id": look.declaration, "prompts": look.prompts, "result": dict(result)}
        )

    def _append(self, entry: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"format": FORMAT, "previous": self._last, "time": time, **entry}
        check = _check(entry)
        line = (canonical_json({**entry, "check": check}) + "\n").encode("utf-8", "surrogatepass")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as stream:
                stream.truncate(self._whole)  # what a kill cut short was never acted upon
                written = stream.write(line)
                if written != len(line):
                    stream.truncate(self._whole)
                    raise OSError(28, "no space left on device")
                os.fsync(stream.fileno())
        except OSError as error:
            raise StoreError(
                f"cannot write: {error.strerror or error}",
                where=str(self.path),
                hint="nothing was looked at that is not written down; mend it and run the same command again",
            ) from error
        self._whole += len(line)
        self._last = check
        self._take(entry)

    def _load(self) -> None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", where=str(self.path)) from None
        chained = False
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                check = entry.pop("check")
                if check != _check(entry):
                    raise ValueError("the digest of the line is wrong")
                chained = chained or entry["format"] == FORMAT
                if (entry["previous"] != self._last) if chained else (entry["format"] != 1):
                    raise ValueError("it does not follow the line before it")
                self._take(entry)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise StoreError(
                    "is damaged or was changed, or a line before it is missing, so it is not known which "
                    "prompts were looked at",
                    where=f"{self.path}, line {number}",
                    hint="restore it from version control; without it these prompts prove nothing",
                ) from None
            self._whole += len(line)
            self._last = check

    def _take(self, entry: Mapping[str, Any]) -> None:
        name = entry["id"]
        if entry["event"] == "declared":
            self._declared[name] = entry["test"]
            return
        key = (name, entry["prompts"])
        if entry["event"] == "begun":
            digests = frozenset(entry["digests"])
            self._looks[key] = Look(*key, digests, self._declared[name], entry["time"], None)
        elif entry["event"] == "finished":
            self._looks[key] = self._looks[key]._replace(result=entry["result"])
        else:
            raise ValueError(entry["event"])


def _check(entry: Mapping[str, Any]) -> str:
    return sha256_text(canonical_json(entry))[:_DIGITS]
