"""The models that a method reads beside the caller's own: in memory, or loaded once from disk."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trivet._validation import did_you_mean
from trivet.errors import ConfigError, ModelError
from trivet.models.names import resolve_model
from trivet.models.torch_engine.alignment import shared_tokens
from trivet.models.torch_engine.loading import LoadedModel, in_memory, load
from trivet.systems.parts import Part


class ModelsBeside:
    """See ``CustomGenerate`` for ``models``.

    Raises:
        ConfigError: one of ``models`` has a name that the settings do not mention.
    """

    def __init__(self, decoding: Part, tokenizer: Any, models: Mapping[str, Any]) -> None:
        # The settings' own names, which ``decoding.models`` may have made paths of.
        self._named: Mapping[str, str] = getattr(decoding.config, "model_names", {})
        self._paths = decoding.models
        self._given = {
            name: one if isinstance(one, tuple) else (one, tokenizer) for name, one in models.items()
        }
        self._loaded: dict[str, LoadedModel] = {}
        self._lock = threading.Lock()
        for name in self._given:
            if name not in self._named.values():
                raise ConfigError(
                    f"models: the settings of {decoding.method.name} name no model {name!r}",
                    where="custom_generate",
                    hint=did_you_mean(name, set(self._named.values())),
                )

    def of(self, own: LoadedModel) -> dict[str, LoadedModel]:
        """The models beside ``own``, by the method's names for them.

        Those with the same weights are one model, as far as it is known: the same object, or the same files.

        Raises:
            ModelError: a model cannot be found or loaded, or its vocabulary is another one.
        """
        found: dict[str, LoadedModel] = {}
        for key, name in self._named.items():
            part = self._memory(name, own) or self._disk(self._paths[key], own)
            same = next((one for one in (own, *found.values()) if one.model is part.model), None)
            found[key] = same or replace(part, key=key, shared=shared_tokens(own, part))
        return found

    def _memory(self, name: str, own: LoadedModel) -> LoadedModel | None:
        if name not in self._given:
            return None
        model, tokenizer = self._given[name]
        return own if model is own.model else in_memory(model, tokenizer, eos=own.eos, where=name)

    def _disk(self, name: str, own: LoadedModel) -> LoadedModel:
        reference = resolve_model(name)
        folder = reference.path if reference.base is None else reference.base.path
        if folder is None or not folder.is_dir():
            raise ModelError("is not a model folder", where=name)
        with self._lock:
            key = f"{reference.identity} {own.device}"
            if key not in self._loaded:
                adapter = None if reference.base is None else reference.path
                self._loaded[key] = load(folder, device=str(own.device), where=name, adapter=adapter)
            return self._loaded[key]
