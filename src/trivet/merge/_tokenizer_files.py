"""A model's tokenizer as it lies on disk: its tokens and their rows, read without importing transformers.

Which token has which row is in ``tokenizer.json`` (the vocabulary and the added tokens), with more added
tokens in ``tokenizer_config.json`` or ``added_tokens.json`` of older models. How many rows the model has is
in ``config.json``: a tokenizer may know tokens beyond them, which have no row.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet._files import canonical_json, sha256_text
from trivet.errors import MergeError
from trivet.models.cache import remembered_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FILE = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
_OTHER_FORMS = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "tekken.json")
_COPIED = (_SETTINGS, "special_tokens_map.json", "chat_template.jinja")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's tokens.

    ``ids`` has the id of each token, in the order of the ids; ``added`` the flags of those that were added to
    the vocabulary (``special``, ``lstrip`` …); ``rows`` how many rows the model has for them, ``None`` where
    its configuration does not say.
    """

    ids: dict[str, int]
    added: dict[str, dict[str, bool]]
    rows: int | None

    def row(self, token: str) -> int:
        """The row of ``token`` in the model's vocabulary tensors, or -1 where it has none."""
        row = self.ids.get(token, -1)
        return row if self.rows is None or row < self.rows else -1


def read_tokens(folder: Path) -> Tokens | None:
    """The tokens of the model in ``folder``; ``None`` where no tokenizer was saved with it.

    Raises:
        MergeError: the tokenizer is of another form than ``tokenizer.json``, or a file is damaged.
    """
    file = folder / _FILE
    if not file.is_file():
        other = next((name for name in _OTHER_FORMS if (folder / name).is_file()), None)
        if other is None:
            return None
        raise MergeError(
            f"has {other} but no {_FILE}, the form that tokenizers are compared and merged in",
            where=str(folder),
            hint="load the tokenizer with transformers' AutoTokenizer and save it to the folder",
        )
    content = _mapping(file)
    try:
        ids = _vocabulary(content["model"]["vocab"])
        added = {}
        for entry in content.get("added_tokens") or []:
            ids[entry["content"]] = int(entry["id"])
            added[entry["content"]] = _flags(entry)
        taken = set(ids.values())
        for token, (number, flags) in _added_in_settings(folder).items():
            if token not in ids and number not in taken:
                ids[token], added[token] = number, flags
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MergeError(f"is not a tokenizer: {error!r}"[:200], where=str(file)) from None
    return Tokens(dict(sorted(ids.items(), key=lambda entry: entry[1])), added, rows_of(folder))


def load_tokenizer(folder: Path, tokens: Tokens) -> "PreTrainedTokenizerFast":
    """The tokenizer in ``folder``, without the tokens for which its model has no row.

    Args:
        tokens: what ``read_tokens`` says about it.

    Raises:
        MergeError: it cannot be loaded, or tokens cannot be taken out of this kind of tokenizer.
    """
    gone = {token for token in tokens.ids if tokens.row(token) < 0}
    if not gone:
        return _load(folder, folder)
    with tempfile.TemporaryDirectory(prefix="trivet-tokenizer-") as work:
        for name in _COPIED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(work) / name)
        content = _without(_mapping(folder / _FILE), gone, folder)
        (Path(work) / _FILE).write_text(json.dumps(content), encoding="utf-8")
        for name in ("special_tokens_map.json", _SETTINGS):
            file = Path(work) / name
            if file.is_file():
                file.write_text(json.dumps(_settings_without(_mapping(file), gone)), encoding="utf-8")
        return _load(Path(work), folder)


def tokenizer_identity(folder: Path) -> str:
    """SHA-256 of what a merge takes from the tokenizer in ``folder``: its files, and how many rows it has.

    Raises:
        MergeError: ``config.json`` is damaged.
    """
    patterns = (_FILE, *_COPIED, "added_tokens.json", "*.jinja", "additional_chat_templates/*.jinja")
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    content = {str(file.relative_to(folder)): remembered_sha256(file) for file in files}
    return sha256_text(canonical_json([content, rows_of(folder)]))


def rows_of(folder: Path) -> int | None:
    """How many rows for tokens the model in ``folder`` has, as its ``config.json`` says.

    Raises:
        MergeError: the file is damaged.
    """
    if not (folder / "config.json").is_file():
        return None
    config = _mapping(folder / "config.json")
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        if isinstance(part.get("vocab_size"), int):
            return int(part["vocab_size"])
    return None


def _load(folder: Path, named: Path) -> "PreTrainedTokenizerFast":
    # Not AutoTokenizer: the classes of some model families build the tokenizer anew and pass over parts of
    # tokenizer.json, which would not be the tokenizer whose rows are merged.
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise many kinds; each means the same here
        said = (str(error).splitlines() or [repr(error)])[0]
        raise MergeError(f"the tokenizer cannot be loaded: {said}", where=str(named)) from error


def _without(content: dict[str, Any], gone: set[str], folder: Path) -> dict[str, Any]:
    """``tokenizer.json`` without some tokens, and without the merges of a BPE that need them."""
    model = content["model"]
    added = [entry for entry in content.get("added_tokens") or [] if entry["content"] not in gone]
    if not isinstance(model["vocab"], dict):
        if any(piece in gone for piece, _ in model["vocab"]):
            raise MergeError(
                f"has more tokens than rows, and they cannot be taken out of a {model.get('type')} tokenizer",
                where=str(folder),
                hint="resize the model's embeddings to its tokenizer",
            )
        return {**content, "added_tokens": added}
    kept = {token: number for token, number in model["vocab"].items() if token not in gone}
    changed = {**model, "vocab": kept}
    if "merges" in model:
        changed["merges"] = [merge for merge in model["merges"] if gone.isdisjoint(_merged(merge))]
    return {**content, "added_tokens": added, "model": changed}


def _merged(merge: str | list[str]) -> list[str]:
    """The two parts and the whole of one merge, which is a pair or, in older files, a text with a blank."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return [left, right, left + right]


def _settings_without(settings: dict[str, Any], gone: set[str]) -> dict[str, Any]:
    """A tokenizer's settings without tokens that it no longer has, which loading would add again."""

    def is_gone(value: Any) -> bool:
        return (value.get("content") if isinstance(value, dict) else value) in gone

    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if key.endswith("_token") and isinstance(value, str | dict):
            if not is_gone(value):
                kept[key] = value
        elif key == "added_tokens_decoder" and isinstance(value, dict):
            kept[key] = {number: entry for number, entry in value.items() if not is_gone(entry)}
        elif key.endswith("special_tokens") and isinstance(value, list):
            kept[key] = [entry for entry in value if not is_gone(entry)]
        else:
            kept[key] = value
    return kept


def _vocabulary(vocabulary: Any) -> dict[str, int]:
    """Token → id of a tokenizer.json's model: a mapping, or (token, score) in the order of the ids."""
    if isinstance(vocabulary, dict):
        return {str(token): int(number) for token, number in vocabulary.items()}
    return {str(token): number for number, (token, _) in enumerate(vocabulary)}


def _added_in_settings(folder: Path) -> dict[str, tuple[int, dict[str, bool]]]:
    """Added tokens that older models keep beside tokenizer.json: token → (id, flags)."""
    found: dict[str, tuple[int, dict[str, bool]]] = {}
    if (folder / _SETTINGS).is_file():
        for number, entry in (_mapping(folder / _SETTINGS).get("added_tokens_decoder") or {}).items():
            found[str(entry["content"])] = int(number), _flags(entry)
    if (folder / "added_tokens.json").is_file():
        for token, number in _mapping(folder / "added_tokens.json").items():
            found.setdefault(token, (int(number), {}))
    return found


def _flags(entry: dict[str, Any]) -> dict[str, bool]:
    return {flag: bool(entry[flag]) for flag in _FLAGS if flag in entry}


def _mapping(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MergeError(f"cannot be read: {error}", where=str(file)) from None
    if not isinstance(content, dict):
        raise MergeError("must hold a JSON mapping", where=str(file))
    return content
