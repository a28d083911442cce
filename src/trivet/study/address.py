"""The address of a step: a digest of all that determines its output, and of nothing else.

In it: method name and version, configuration with defaults filled in, SHA-256 of the inputs (weights,
prompts, task source), engine and dtype, seed. Not in it: batch size, device, paths, display. Versions of
packages are recorded beside the output; a change warns and does not change the address.
"""

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivet._files import canonical_json, sha256_file, sha256_text

PACKAGES = ("trivet", "torch", "transformers", "inspect-ai", "datasets", "numpy", "scipy", "xllamacpp")
"""The packages whose version can change an answer or a number."""


@dataclass(frozen=True)
class Description:
    """What a step is, in plain JSON values.

    ``inputs`` maps a name to the SHA-256 or the address of what goes in; ``config`` holds every key, defaults
    included, and no path.
    """

    method: str
    version: int
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The form that is hashed and that stands in the manifest."""
        return {
            "method": self.method,
            "version": self.version,
            "config": dict(self.config),
            "inputs": dict(self.inputs),
            "seed": self.seed,
        }

    @property
    def address(self) -> str:
        """64 hexadecimal digits."""
        return sha256_text(canonical_json(self.as_json()))


def derived_seed(seed: int, *parts: object) -> int:
    """A seed in [0, 2³¹) that follows from the study's seed and what it is for."""
    digest = hashlib.sha256(canonical_json([seed, *[str(part) for part in parts]]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def package_versions() -> dict[str, str]:
    """Versions of the interpreter and of the packages in ``PACKAGES`` that are installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def changed_versions(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Sentences that name packages whose version is not what it was."""
    names = sorted(set(then) & set(now))
    return [f"{name} {then[name]} → {now[name]}" for name in names if then[name] != now[name]]


_hashes: dict[tuple[str, int, int], str] = {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered in this process by path, size and time of modification."""
    status = Path(path).stat()
    key = (str(Path(path).resolve()), status.st_size, status.st_mtime_ns)
    if key not in _hashes:
        _hashes[key] = sha256_file(Path(path))
    return _hashes[key]
