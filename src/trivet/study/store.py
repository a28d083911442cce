"""The store: a folder of content-addressed outputs.

::

    STORE/objects/<address>/…              outputs of one finished step
    STORE/objects/<address>/manifest.json  written last: the step is finished (the manifests are the truth)
    STORE/answers/<address>.jsonl          finished answers, one a line, while and after they are generated
    STORE/logs/<study>/…                   the logs again, by name, where ``inspect view`` reads them
    STORE/plans/, STORE/studies/           plans made and which objects a study stands on
    STORE/searches/NAME.json               the trials of a search, and which objects each stands on
    STORE/training/<address>/…             runs of training that are not finished, and whose they are
    STORE/index.sqlite                     a table of the manifests; rebuilt from them when it is broken
    STORE/lock                             against a second driver

Accepted trade-off: an object is renamed into place before its manifest is written, so a kill between the two
leaves a folder without a manifest. It counts as absent, is replaced by the next run and removed by ``gc``.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trivet._files import canonical_json, sha256_file, sha256_text, write_json
from trivet.errors import StoreError
from trivet.study.address import Description, package_versions
from trivet.study.index import Index
from trivet.study.lock import DriverLock
from trivet.study.manifest import FORMAT, MANIFEST, Manifest, Problem, read_manifest
from trivet.study.unfinished import address_needed, begin

DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
)


class Store:
    """A store on disk. Reading needs no lock; ``driver()`` takes it for writing.

    Raises:
        StoreError: the folder holds something else, cannot be made, or is of a later format.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = Path(path).absolute()
        marker = self.path / "store.json"
        if not marker.exists():
            if not create:
                raise StoreError("is not a store", where=str(path), hint="`trivet study run` makes one")
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise StoreError(
                    "exists and is not a store", where=str(path), hint="name an empty or a new folder"
                )
            write_json(marker, {"format": FORMAT})
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))["format"]
        except (OSError, ValueError, KeyError, TypeError):
            raise StoreError("cannot be read", where=str(marker), hint='restore it: {"format": 1}') from None
        if found != FORMAT:
            raise StoreError(f"has format {found!r}; this version reads {FORMAT}", where=str(path))
        self.objects = self.path / "objects"
        self.answers = self.path / "answers"
        self.logs = self.path / "logs"
        self.running = self.path / "running"
        self.training = self.path / "training"  # checkpoints of runs that are not finished
        self._lock = DriverLock(self.path / "lock")

    @contextmanager
    def driver(self) -> Iterator["Store"]:
        """Hold the driver's lock; what an earlier driver left unfinished is cleared away."""
        with self._lock:
            self._clear_unfinished()
            try:
                yield self
            finally:
                self._clear_unfinished()

    def begin_training(self, description: Description, *, study: str) -> Path:
        """The folder in which a training run works, and which outlives an interruption.

        It says whose it is and since when, for ``gc``.
        """
        folder = self.training / description.address[:16]
        try:
            begin(folder, description.address, study)
        except OSError as error:
            raise disk_error(error, folder) from error
        return folder

    def _clear_unfinished(self) -> None:
        for folder in (self.running, *self.objects.glob(".draft-*")):
            shutil.rmtree(folder, ignore_errors=True)

    # Reading

    def folder(self, address: str) -> Path:
        """Where the outputs of a step lie or will lie."""
        return self.objects / address

    def find(self, address: str) -> Manifest | None:
        """The manifest of a finished step; ``None`` where it is absent or its outputs are damaged.

        Outputs are compared by size here; ``verify`` reads them in full.
        """
        try:
            manifest = read_manifest(self.folder(address))
        except StoreError:
            return None
        if manifest is None:
            return None
        for name, output in manifest.outputs.items():
            path = self.folder(address) / name
            if not path.is_file() or path.stat().st_size != output["bytes"]:
                return None
        return manifest

    def addresses(self) -> list[str]:
        """Addresses of all object folders, finished or not, sorted."""
        if not self.objects.is_dir():
            return []
        return sorted(path.name for path in self.objects.iterdir() if not path.name.startswith("."))

    def manifests(self) -> list[Manifest]:
        """All readable manifests, oldest first."""
        found = (self.find(address) for address in self.addresses())
        return sorted((m for m in found if m is not None), key=lambda m: (m.created, m.address))

    def rows(self) -> list[dict[str, Any]]:
        """Rows for ``trivet store ls``: from the index where it is whole, else from the manifests."""
        index = Index(self.path / "index.sqlite")
        rows = index.rows()
        if rows is None or {row["address"] for row in rows} != set(self._finished()):
            rows = [Index.row(manifest) for manifest in self.manifests()]
        return rows

    def _finished(self) -> list[str]:
        return [address for address in self.addresses() if (self.folder(address) / MANIFEST).is_file()]

    # Writing

    @contextmanager
    def writing(self, description: Description, *, study: str, step: str) -> Iterator[Path]:
        """A draft folder that becomes the object when the block ends without an error.

        Raises:
            StoreError: the disk is full, or this process does not hold the driver's lock.
        """
        if not self._lock.held:
            raise StoreError("only the driver writes to a store", where=str(self.path))
        address = description.address
        draft = self.objects / f".draft-{address}"
        started = datetime.now(UTC)
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            yield draft
            outputs = _seal(draft)
            final = self.folder(address)
            if final.exists():
                shutil.rmtree(final)
            draft.replace(final)
            manifest = Manifest(
                address=address,
                description=description.as_json(),
                outputs=outputs,
                packages=package_versions(),
                created=started.isoformat(timespec="milliseconds"),
                seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
                study=study,
                step=step,
            )
            values = asdict(manifest)
            write_json(final / MANIFEST, {**values, "sha256": sha256_text(canonical_json(values))})
        except OSError as error:
            if error.errno not in DISK_ERRORS:  # an endpoint that went away is an OSError too
                raise
            raise disk_error(error, self.path) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        Index(self.path / "index.sqlite").add(manifest)

    def link_log(self, source: Path, name: str) -> None:
        """Show ``source`` as ``logs/<name>`` too (a hard link, or a copy where links are impossible)."""
        target = self.logs / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.tmp")
            temporary.unlink(missing_ok=True)
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            temporary.replace(target)
        except OSError as error:
            raise disk_error(error, target) from error

    def rebuild_index(self) -> int:
        """Make the index anew from the manifests; returns the number of rows."""
        manifests = self.manifests()
        Index(self.path / "index.sqlite").rebuild(manifests)
        return len(manifests)

    # Upkeep

    def record_study(self, name: str, record: dict[str, Any]) -> None:
        """Remember which addresses the latest run of a study stands on (``record["addresses"]``)."""
        write_json(self.path / "studies" / f"{name}.json", record)

    def studies(self) -> dict[str, dict[str, Any]]:
        """The record of every study, by name.

        Raises:
            StoreError: a record cannot be read.
        """
        return self._records("studies", "run the study again")

    def _trials(self) -> list[dict[str, Any]]:
        records = self._records("searches", "run the search again").values()
        return [trial for record in records for trial in record.get("trials", [])]

    def _records(self, kind: str, remedy: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path in sorted((self.path / kind).glob("*.json")):
            try:
                found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise StoreError(
                    f"cannot be read: {error}", where=str(path), hint=f"delete it and {remedy}"
                ) from None
        return found

    def gc(self, *, dry_run: bool = False) -> list[tuple[str, int]]:
        """Remove what no study's latest run and no search stands on, and what was left unfinished.

        Training that is not finished stays as long as a study needs it: until a later run of the study
        needs it no more. So does what training without a solution left, which no run repeats.

        Returns (name, bytes) of each.

        Raises:
            StoreError: a study's or a search's record is damaged, so what is still needed is not known.
        """
        records = [*self.studies().values(), *self._trials()]
        kept = {address for record in records for address in record.get("addresses", [])}
        kept_answers = {address for record in records for address in record.get("answers", [])}
        doomed: list[Path] = []
        for address in self.addresses():
            if address not in kept or self.find(address) is None:
                doomed.append(self.folder(address))
        doomed += sorted(self.objects.glob(".draft-*"))
        doomed += [p for p in sorted(self.answers.glob("*.jsonl")) if p.stem not in kept_answers]
        doomed += sorted(p for p in self.path.rglob(".*.tmp") if p.is_file())
        doomed += [self.running] if self.running.exists() else []
        doomed += [path for path in sorted(self.training.glob("*")) if not self._needs_training(path)]
        removed = [(str(path.relative_to(self.path)), _size(path)) for path in doomed]
        if not dry_run:
            for path in doomed:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            self.rebuild_index()
        return removed

    def _needs_training(self, folder: Path) -> bool:
        address = address_needed(folder, self.studies())
        return address is not None and self.find(address) is None

    def verify(self) -> list[Problem]:
        """Read every manifest and every output in full; what does not match is returned."""
        problems: list[Problem] = []
        redo, clear = "run the study again; the step is done again", "`trivet store gc`, then run again"
        for address in self.addresses():
            try:
                manifest = read_manifest(self.folder(address))
            except StoreError as error:
                problems.append(Problem(address, f"manifest {error.message}", redo))
                continue
            if manifest is None:
                problems.append(Problem(address, "has no manifest: the step did not finish", clear))
                continue
            for name, output in sorted(manifest.outputs.items()):
                path = self.folder(address) / name
                if not path.is_file():
                    problems.append(Problem(address, f"{name} is missing", redo))
                elif sha256_file(path) != output["sha256"]:
                    problems.append(Problem(address, f"{name} was changed", clear))
        return problems


def disk_error(error: OSError, where: Path) -> StoreError:
    """The message for a write that the system refused."""
    return StoreError(
        f"cannot write: {error.strerror or error}",
        where=str(error.filename or where),
        hint="nothing finished is lost; free disk space or mend the permissions and run the command again",
    )


def _seal(folder: Path) -> dict[str, dict[str, Any]]:
    """Flush every file to disk and return its digest and size."""
    outputs: dict[str, dict[str, Any]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        name = path.relative_to(folder).as_posix()
        outputs[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    return outputs


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
