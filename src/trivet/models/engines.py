"""Engines by name, shared per process: the same weights are loaded once, however often they are asked for."""

import atexit
import threading
from collections.abc import Mapping
from typing import Any

from trivet.errors import ConfigError, UnsupportedError
from trivet.models import embedded
from trivet.models.cache import remembered_sha256
from trivet.models.engine import Engine
from trivet.models.names import ModelReference, resolve_model

_shared: dict[tuple[Any, ...], Engine] = {}
_lock = threading.Lock()

ENGINES = ("auto", "torch", "llamacpp")


def get_engine(
    model: str,
    *,
    engine: str = "torch",
    device: str = "auto",
    dtype: str = "auto",
    device_map: Any = None,
    deterministic: bool = False,
    api_key_env: str | None = None,
    auxiliary: Mapping[str, str] | None = None,
) -> Engine:
    """The engine that runs ``model``, loaded at the first call and shared by its content afterwards.

    ``engine`` is "torch", "llamacpp" or "auto" (llama.cpp for GGUF files, otherwise PyTorch); endpoints
    (``openai:``, ``inspect:``) have engines of their own. ``deterministic`` gives answers that do not depend
    on what else is running, bit by bit, at the price of speed. ``api_key_env`` names the environment variable
    that holds an endpoint's key. ``auxiliary`` loads models beside this one for ``Next``, by the name that it
    gives them (PyTorch only; they must share its vocabulary).

    Raises:
        ModelError: the model cannot be found or loaded.
        UnsupportedError: the engine cannot run this kind of model.
        ConfigError: there is no engine of this name.
    """
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}", hint=f"one of {', '.join(ENGINES)}")
    reference = resolve_model(model)
    kind = _kind(reference, engine)
    others = {name: resolve_model(other) for name, other in (auxiliary or {}).items()}
    if others and kind != "torch":
        raise UnsupportedError("only the PyTorch engine runs several models", where=model)
    beside = tuple(sorted((name, other.identity) for name, other in others.items()))
    key = (kind, reference.identity, device, dtype, repr(device_map), deterministic, api_key_env, beside)
    with _lock:
        if key not in _shared:
            if kind == "torch":
                from trivet.models.torch_engine import TorchEngine

                _shared[key] = TorchEngine(
                    reference,
                    device=device,
                    dtype=dtype,
                    device_map=device_map,
                    auxiliary=others,
                    deterministic=deterministic,
                )
            else:
                _shared[key] = _build_other(reference, kind, device, api_key_env)
        return _shared[key]


@atexit.register  # a thread inside torch while the interpreter ends would bring it down
def close_engines() -> None:
    """Close every shared engine and forget it."""
    with _lock:
        engines = list(_shared.values())
        _shared.clear()
    for engine in engines:
        engine.close()


def _kind(reference: ModelReference, engine: str) -> str:
    if reference.kind in {"openai", "inspect"}:
        return reference.kind
    if reference.kind == "gguf":
        if engine == "torch":
            raise UnsupportedError(
                "a GGUF file runs in llama.cpp, not in PyTorch",
                where=reference.name,
                hint="set engine: llamacpp",
            )
        return "llamacpp"
    return "torch" if engine == "auto" else engine


def _build_other(reference: ModelReference, kind: str, device: str, api_key_env: str | None) -> Engine:
    if kind == "openai":
        from trivet.models.remote import RemoteEngine

        return RemoteEngine(str(reference.location), str(reference.endpoint_model), api_key_env=api_key_env)
    if kind == "inspect":
        from trivet.models.inspect_models import InspectEngine

        return InspectEngine(str(reference.location))
    from trivet.models.llamacpp import LlamaCppEngine

    path = embedded.gguf_path() if reference.kind == "embedded" else reference.path
    if path is None or not path.is_file():
        raise UnsupportedError(
            "llama.cpp runs GGUF files; there is none for this model",
            where=reference.name,
            hint="give the path of a .gguf file, or set engine: torch",
        )
    return LlamaCppEngine(path, name=reference.name, weights_identity=remembered_sha256(path), device=device)
