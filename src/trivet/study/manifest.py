"""The manifest of a finished step: what it was, what it left, and a digest of itself."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivet._files import canonical_json, sha256_text
from trivet.errors import StoreError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What one finished step left. ``outputs`` maps a relative path to ``{"sha256", "bytes"}``."""

    address: str
    description: dict[str, Any]
    outputs: dict[str, dict[str, Any]]
    packages: dict[str, str]
    created: str
    seconds: float
    study: str
    step: str
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        """Size of all outputs."""
        return sum(int(output["bytes"]) for output in self.outputs.values())


@dataclass(frozen=True)
class Problem:
    """One thing that ``verify`` found."""

    address: str
    what: str
    hint: str


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in an object's folder; ``None`` where the step did not finish.

    Raises:
        StoreError: it is damaged, or belongs to another address.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot be read: {error}", where=str(path)) from None
    try:
        values = json.loads(text)
        digest = values.pop("sha256")
        if digest != sha256_text(canonical_json(values)):
            raise ValueError("its own digest does not match")
        manifest = Manifest(**values)
        if manifest.address != folder.name:
            raise ValueError("it belongs to another address")
        if sha256_text(canonical_json(manifest.description)) != folder.name:
            raise ValueError("the address does not follow from the description")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"is damaged: {error}", where=str(path), hint="run the study again; the step is done again"
        ) from None
    return manifest
