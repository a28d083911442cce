"""The models that a recipe names, opened: whole checkpoints, and adapters on a base."""

from dataclasses import dataclass
from pathlib import Path

import torch

from trivet._files import canonical_json, sha256_text
from trivet.data.trained_on import read_trained_on
from trivet.errors import MergeError
from trivet.merge.adapters import CONFIG, FILE, Adapter
from trivet.merge.weights import Entry, Weights
from trivet.models.cache import remembered_sha256
from trivet.models.names import ModelReference, is_adapter, made_folder, resolve_model


@dataclass(frozen=True)
class Source:
    """One model of a recipe: full weights, with an adapter on top where ``adapter`` is set."""

    name: str
    weights: Weights
    adapter: Adapter | None = None

    @property
    def folder(self) -> Path:
        """The folder of the full weights."""
        return self.weights.folder

    @property
    def identity(self) -> str:
        """SHA-256 of its weights, configuration and tokenizer, and of the adapter's files."""
        whole = ModelReference(self.name, "folder", self.folder).identity
        if self.adapter is None:
            return whole
        files = (self.adapter.folder / CONFIG, self.adapter.folder / FILE)
        return sha256_text(canonical_json([whole, *(remembered_sha256(file) for file in files)]))

    @property
    def trained_on(self) -> frozenset[str]:
        """Digests of the prompts that it is known to have learnt from; see ``trivet.data.trained_on``."""
        own = read_trained_on(self.folder)
        return own if self.adapter is None else own | read_trained_on(self.adapter.folder)

    def entry(self, name: str) -> Entry | None:
        """Type and shape of a tensor; ``None`` where it has none of that name."""
        return self.weights.entries.get(name)

    def rows(self, name: str, row: int, rows: int) -> torch.Tensor:
        """Rows of a tensor, float32 [rows, columns]."""
        values = self.weights.read(name, row, rows)
        if self.adapter is not None and self.adapter.changes(name):
            values = values + self.adapter.delta(name, row, rows)
        return values


class Sources:
    """Opens models by the names in a recipe; full weights are shared by the adapters on them.

    Args:
        recipe_folder: what relative paths refer to first; then the working directory.
        base_model: the recipe's base, which adapters without a model of their own belong to.
    """

    def __init__(self, recipe_folder: Path, base_model: str | None) -> None:
        self._folder = recipe_folder
        self._base = base_model
        self._weights: dict[Path, Weights] = {}
        self._sources: dict[str, Source] = {}

    def open(self, name: str) -> Source:
        """The model that ``name`` means: what ``trivet models`` takes, an adapter, or ``model+adapter``.

        Raises:
            ModelError: there is no such model, or a file of it is damaged.
            MergeError: an adapter does not fit its base.
        """
        if name not in self._sources:
            self._sources[name] = self._open(name)
        return self._sources[name]

    def _open(self, name: str) -> Source:
        found = self._place(name)
        if found.is_dir() or "+" not in name:
            if not is_adapter(found):
                return Source(name, self._full(name))
            return self._adapted(name, self._base_of(name), found)
        model, _, adapter = name.partition("+")
        return self._adapted(name, self._full(model), self._place(adapter))

    def _base_of(self, adapter: str) -> Weights:
        """The full weights that an adapter without a model of its own belongs to: the recipe's base.

        Where the base has an adapter of its own there are two readings, on top of it or beside it: the recipe
        says which.
        """
        if self._base is None or self._base == adapter:
            why = (
                "the recipe names no base_model" if self._base is None else "base_model is that adapter alone"
            )
            raise MergeError(f"is an adapter, and {why}", where=adapter, hint="write MODEL+ADAPTER")
        base = self.open(self._base)
        if base.adapter is not None:
            raise MergeError(
                f"is an adapter, and base_model has one of its own: {self._base}",
                where=adapter,
                hint=f"say what it goes on, MODEL+ADAPTER: {self._base.partition('+')[0]}+{adapter}",
            )
        return base.weights

    def _adapted(self, name: str, base: Weights, folder: Path) -> Source:
        if not (folder / FILE).is_file():
            raise MergeError(f"holds no {FILE}", where=str(folder))
        return Source(name, base, Adapter(folder, base))

    def _full(self, name: str) -> Weights:
        place = self._place(name)
        reference = resolve_model(str(place) if place.exists() else name)
        if reference.path is None or not reference.path.is_dir() or reference.base is not None:
            raise MergeError("is no folder of safetensors weights", where=name)
        folder = reference.path.resolve()
        if folder not in self._weights:
            self._weights[folder] = Weights(folder)
        return self._weights[folder]

    def _place(self, name: str) -> Path:
        made = made_folder(name)
        if made is not None:
            return made
        path = Path(name).expanduser()
        beside = self._folder / path
        return beside if beside.exists() else path

    def folder_of(self, name: str) -> Path:
        """The folder of a model that only gives its tokenizer.

        Raises:
            ModelError: there is no such model.
        """
        return self._full(name).folder

    def close(self) -> None:
        """Close all files."""
        for weights in self._weights.values():
            weights.close()
