"""Remembered hashes follow the file; locks keep processes apart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trivet.models.cache import cache_folder, locked, remembered_sha256


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path / "cache"))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = remembered_sha256(file)
    assert first == remembered_sha256(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert remembered_sha256(file) != first
    assert len((cache_folder() / "hashes.json").read_text().splitlines()) == 3  # the old entry is gone


def test_an_unchanged_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    state = file.stat()
    first = remembered_sha256(file)
    file.write_bytes(b"two")  # the same size and, by hand, the same time: taken for the same file
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert remembered_sha256(file) == first


def test_a_damaged_memory_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = remembered_sha256(file)
    (cache_folder() / "hashes.json").write_text("{")
    assert remembered_sha256(file) == first


def test_locks_exclude_other_processes(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom trivet.models.cache import locked\n"
        "with locked(Path(sys.argv[1]) / 'lock'):\n"
        "    log = Path(sys.argv[1]) / 'log'\n"
        "    log.open('a').write('in\\n'); time.sleep(0.2); log.open('a').write('out\\n')\n"
    )
    with locked(tmp_path / "lock"):
        workers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [worker.wait(30) for worker in workers] == [0, 0, 0]
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 3
