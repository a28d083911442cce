"""A model's name to weights or an endpoint, in one place.

======================== ===========================================================
``smollm2-135m-instruct`` the embedded model (``trivet models pull``)
``path/to/folder``        a Hugging Face folder: safetensors, tokenizer; or a PEFT adapter, whose base is
                          the model that its adapter_config.json names
``path/to/file.gguf``     a GGUF file, for llama.cpp
``owner/name[@revision]`` a model on the Hugging Face hub
``openai:URL#name``       an OpenAI-compatible endpoint
``inspect:PROVIDER/NAME`` any model provider of Inspect AI
``system:NAME``           in a study, what its system NAME merges or trains
======================== ===========================================================
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trivet._files import canonical_json, named_path, sha256_text
from trivet._validation import did_you_mean
from trivet.data.trained_on import read_trained_on
from trivet.errors import ModelError
from trivet.models import embedded
from trivet.models.cache import remembered_sha256

Kind = Literal["embedded", "folder", "adapter", "gguf", "hub", "openai", "inspect"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
# What determines the answers besides the weights.
_SETTINGS = (
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "*.jinja",
)
MADE = "system:"
_made: ContextVar[Mapping[str, Path]] = ContextVar("made_models")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class ModelReference:
    """Where a model's weights or endpoint are.

    ``path`` is the folder or GGUF file on disk (``None`` for endpoints), ``location`` the hub id, URL or
    provider name where there is one, ``endpoint_model`` the model's name at an endpoint, ``base`` the model
    that an adapter changes.
    """

    name: str
    kind: Kind
    path: Path | None = None
    location: str | None = None
    endpoint_model: str | None = None
    base: "ModelReference | None" = None

    @property
    def identity(self) -> str:
        """Hexadecimal SHA-256 of weights, configuration and tokenizer; of the name for an endpoint."""
        if self.path is None:
            return sha256_text(f"{self.kind}:{self.location}#{self.endpoint_model}")
        if self.path.is_file():
            return remembered_sha256(self.path)
        files = sorted(
            {file for pattern in ("*.safetensors", *_SETTINGS) for file in self.path.glob(pattern)}
        )
        content = {file.name: remembered_sha256(file) for file in files}
        if self.base is not None:
            content["base"] = self.base.identity
        return sha256_text(canonical_json(content))

    @property
    def trained_on(self) -> frozenset[str]:
        """Digests of the prompts that it is known to have learnt from (``trivet.data.trained_on``).

        Raises:
            DataError: the file that says so is damaged.
        """
        own = read_trained_on(self.path)
        return own if self.base is None else own | self.base.trained_on

    @property
    def source(self) -> dict[str, str]:
        """Where the weights came from, as far as it is known."""
        known = embedded.source_of(self.path) if self.path is not None else {}
        return known or {"source": str(self.location or self.path)}


@contextmanager
def made_models(folders: Mapping[str, Path]) -> Iterator[None]:
    """Let ``system:NAME`` mean the checkpoint in ``folders[NAME]``; the mapping may grow meanwhile."""
    token = _made.set(folders)
    try:
        yield
    finally:
        _made.reset(token)


def made_folder(name: str) -> Path | None:
    """The folder of the checkpoint that ``system:NAME`` means; ``None`` for every other name.

    Raises:
        ModelError: no such checkpoint is made here.
    """
    if not name.startswith(MADE):
        return None
    folder = _made.get({}).get(name.removeprefix(MADE))
    if folder is None:
        raise ModelError(
            "means what a system of the same study merges or trains, and there is none of that name",
            where=name,
        )
    return folder


def resolve_model(name: str) -> ModelReference:
    """Find the model that ``name`` means. Hub models are looked for in the local cache, then downloaded.

    Raises:
        ModelError: no such model, or what is there cannot be used safely.
    """
    if name.startswith("openai:"):
        return _openai(name)
    if name.startswith("inspect:"):
        provider = name.removeprefix("inspect:")
        if "/" not in provider:
            raise ModelError("must be inspect:PROVIDER/NAME", where=name)
        return ModelReference(name, "inspect", location=provider, endpoint_model=provider.split("/", 1)[1])
    made = made_folder(name)
    if made is not None:
        return replace(_on_disk_or_hub(str(made)), name=name)
    if name == embedded.NAME:
        path = embedded.folder()
        if path is None:
            raise ModelError(
                "the embedded model is not in the cache", where=name, hint=f"run: trivet models pull {name}"
            )
        return ModelReference(name, "embedded", path, embedded.HUB_ID)
    return _on_disk_or_hub(name)


def _on_disk_or_hub(name: str) -> ModelReference:
    path = named_path(name, error=ModelError)
    if is_adapter(path):
        return ModelReference(name, "adapter", path, base=_base_of(path))
    if path.is_dir():
        check_folder(path)
        return ModelReference(name, "folder", path)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError("is neither a model folder nor a GGUF file", where=name)
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ModelError("is not a GGUF file: it does not begin with GGUF", where=name)
        return ModelReference(name, "gguf", path)
    if name.startswith((".", "/", "~")) or path.suffix.lower() == ".gguf" or name.count("/") > 1:
        raise ModelError("no such file or folder", where=name, hint="check the path")
    if _HUB_ID.fullmatch(name):
        path = _from_hub(name)
        check_folder(path)
        return ModelReference(name, "hub", path, name)
    raise ModelError(
        f"unknown model {name!r}",
        hint=f"{did_you_mean(name, [embedded.NAME])}; `trivet models list` shows every form of a name",
    )


def _openai(name: str) -> ModelReference:
    url, _, model = name.removeprefix("openai:").partition("#")
    if not re.match(r"https?://[^/\s]+", url) or not model:
        raise ModelError(
            "must be openai:URL#name", where=name, hint="for example openai:http://localhost:8000/v1#my-model"
        )
    return ModelReference(name, "openai", location=url, endpoint_model=model)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]

    def snapshot(local: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=patterns,
                local_files_only=local,
                etag_timeout=5,
            )
        )

    with suppress(LocalEntryNotFoundError):
        return snapshot(local=True)
    try:
        return snapshot(local=False)
    except Exception as error:  # the hub's client raises many kinds; each means the same here
        raise ModelError(
            f"is not a folder here and cannot be had from the hub: {str(error).splitlines()[0]}",
            where=name,
            hint="check the name and the network, or give the path of a folder",
        ) from error


def is_adapter(path: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model."""
    return (path / "adapter_config.json").is_file() and not (path / "config.json").is_file()


def _base_of(path: Path) -> ModelReference:
    """The model that the adapter in ``path`` changes.

    Raises:
        ModelError: the adapter is damaged, or names no model that is here.
    """
    check_folder(path)
    file = path / "adapter_config.json"
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise ModelError("does not name its base model: base_model_name_or_path", where=str(file))
    if base == embedded.HUB_ID and embedded.folder() is not None:
        base = embedded.NAME
    reference = None if is_adapter(Path(base)) else resolve_model(base)  # adapters may name one another
    if reference is None or reference.path is None or not reference.path.is_dir():
        raise ModelError(f"its base must be a model folder, not {base!r}", where=str(file))
    return reference


def check_folder(path: Path) -> None:
    """Refuse a folder that is neither a model nor an adapter, or whose weights are damaged or pickled.

    Raises:
        ModelError: names the file at fault.
    """
    if not is_adapter(path) and not (path / "config.json").is_file():
        raise ModelError("is not a Hugging Face model folder: config.json is missing", where=str(path))
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        pickled = sorted(file for pattern in _PICKLED for file in path.glob(pattern))
        if pickled:
            raise ModelError(
                "holds pickled weights, which can run code when they are read; only safetensors are read",
                where=str(pickled[0]),
                hint="convert them where you trust them: save_pretrained() writes safetensors",
            )
        raise ModelError("holds no *.safetensors weights", where=str(path))
    for file in weights:
        _check_safetensors(file)


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"is not a whole safetensors file ({str(error).splitlines()[0]})",
            where=str(file),
            hint="it was probably cut off; download or write it again",
        ) from error
