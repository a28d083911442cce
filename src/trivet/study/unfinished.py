"""Training of studies that is not finished: whose it is, and how long a store keeps it.

::

    STORE/training/<address>/step.json   the whole address, the study, and when it began or went on
    STORE/training/<address>/…           what the run left
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trivet._files import write_json

STEP = "step.json"


def begin(folder: Path, address: str, study: str) -> None:
    """Say in the folder of a training run whose it is; the folder is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    started = datetime.now(UTC).isoformat(timespec="milliseconds")
    write_json(folder / STEP, {"address": address, "study": study, "started": started})


def address_needed(folder: Path, studies: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The address of the run that a folder holds; ``None`` where no study needs it or whose it is is unknown.

    A study needs what it began after it last finished, and what its last finished run could not make.

    Args:
        studies: the record of every study, by name.
    """
    try:
        known = json.loads((folder / STEP).read_text(encoding="utf-8"))
        address, study, started = (str(known[key]) for key in ("address", "study", "started"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    record = studies.get(study, {})
    needed = address in record.get("training", ()) or started > str(record.get("finished", ""))
    return address if needed else None
