"""Which prompts a checkpoint learnt from: a file beside its weights, so that nobody measures it with them.

``trained_on.json`` holds the SHA-256 of each normalised prompt (``trivet.data.prompts.prompt_digest``), also
of those that the models it was made of had learnt from.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from trivet._files import write_json
from trivet.errors import DataError

FILE = "trained_on.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def write_trained_on(folder: Path, digests: Iterable[str]) -> None:
    """Put the file into a checkpoint's folder; none where there is no digest.

    Raises:
        StoreError: it cannot be written.
    """
    ordered = sorted(set(digests))
    if ordered:
        write_json(Path(folder) / FILE, {"sha256 of normalised prompts": ordered})


def read_trained_on(folder: Path | None) -> frozenset[str]:
    """The digests in a checkpoint's folder; none where nobody wrote down what it learnt from.

    Raises:
        DataError: the file is damaged: then no one can tell whether the checkpoint is measured with prompts
            that it was trained on.
    """
    if folder is None or not (Path(folder) / FILE).is_file():
        return frozenset()
    path = Path(folder) / FILE
    try:
        (digests,) = json.loads(path.read_text(encoding="utf-8")).values()
        found = frozenset(digests)
        if not all(_DIGEST.fullmatch(digest) for digest in found):
            raise ValueError("an entry is no digest")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"what the checkpoint was trained on cannot be read: {error}",
            where=str(path),
            hint="write the checkpoint again, or remove the file where you know that no prompt is shared",
        ) from error
    return found
