"""From what a user writes (a name, a path, a mapping) to a judge.

::

    judge: refusal                                   # a judge that ships
    judge: my_head.safetensors                       # a file that `trivet judges fit` wrote
    judge: runs/reward                               # a folder that `trivet train reward_model` wrote
    judge: {judge: head, path: my_head.safetensors}  # a kind of judge with its settings
    judge: {judge: grader, model: openai/gpt-5-mini, rubric: harmlessness}
"""

import importlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from trivet._files import canonical_json, named_path
from trivet._validation import Config, did_you_mean, validate
from trivet.errors import ConfigError
from trivet.judges.artifact import SHIPPED, read_header
from trivet.judges.base import Judge

Spec: TypeAlias = "str | Path | Mapping[str, Any] | Judge"


class Kind(NamedTuple):
    """A kind of judge: the module that holds its ``Config`` and ``build(config)``, and one line on it."""

    module: str
    summary: str


KINDS: Mapping[str, Kind] = {
    "refusal": Kind(
        "trivet.judges.refusal",
        "full refusal, partial refusal, compliance, or off-topic; fitted on human labels",
    ),
    "refusal_string_match": Kind(
        "trivet.judges.string_match", "a list of phrases: the baseline for `refusal`"
    ),
    "head": Kind(
        "trivet.judges.head", "a linear head on a model's hidden states, fitted on preference pairs"
    ),
    "reward_model": Kind(
        "trivet.judges.reward_model",
        "a trained reward or cost model, as `trivet train reward_model` and `cost_model` make it",
    ),
    "weighted_sum": Kind(
        "trivet.judges.weighted_sum", "a weighted sum of other judges: one reward for several objectives"
    ),
    "grader": Kind("trivet.judges.grader", "a language model, or a panel of them, that grades by a rubric"),
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "harmlessness_head": {"judge": "head", "path": str(SHIPPED / "harmlessness_head.safetensors")},
}

_PRESET_SUMMARIES = {
    "harmlessness_head": "the shipped cost head on the embedded model, fitted on harmlessness preferences"
}

_built: dict[str, Judge] = {}
_lock = threading.RLock()  # a judge may be made of others


def names() -> dict[str, str]:
    """Every name that ``resolve`` knows, with one line on it."""
    return {**{name: kind.summary for name, kind in KINDS.items()}, **_PRESET_SUMMARIES}


def resolve(spec: Spec, *, base: Path | None = None) -> Judge:
    """The judge that ``spec`` means; the same object for the same specification within a process.

    Args:
        spec: a name (see ``names``), the path of a file that ``trivet judges fit`` wrote or of a folder with
            a trained reward or cost model, a mapping with the key ``judge`` (a name) and the settings of that
            kind, or a judge, which is returned as it is.
        base: folder that relative paths refer to, by default the working directory.

    Raises:
        ConfigError: an unknown name or key, or a value out of bounds.
        JudgeError: the file is missing, damaged, or not a judge.
        ModelError: there is no such reward model, or its weights cannot be used safely.
    """
    if not isinstance(spec, str | Path | Mapping):
        if isinstance(spec, Judge):
            return spec
        raise ConfigError(f"a judge is a name, a path or a mapping, not {type(spec).__name__}", where="judge")
    kind, settings = _read(spec, base)
    module = importlib.import_module(KINDS[kind].module)
    config: Config = validate(module.Config, settings, where=f"judge {kind}")
    key = canonical_json(
        [kind, config.model_dump(mode="json"), _stamp(settings.get("path", settings.get("model")))]
    )
    with _lock:
        if key not in _built:
            build: Callable[[Config], Judge] = module.build
            _built[key] = build(config)
        return _built[key]


def _read(spec: "str | Path | Mapping[str, Any]", base: Path | None) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, Path) or (isinstance(spec, str) and _looks_like_path(spec)):
        return _of_path(_anchored(str(spec), base))
    if isinstance(spec, str):
        spec = {"judge": spec}
    settings = dict(spec)
    name = settings.pop("judge", None)
    if not isinstance(name, str):
        raise ConfigError(
            "the key 'judge' must name a judge", where="judge", hint=f"known: {', '.join(sorted(names()))}"
        )
    if name in PRESETS:
        preset = dict(PRESETS[name])
        name = preset.pop("judge")
        return name, {**preset, **settings}
    if name not in KINDS:
        if _looks_like_path(name):
            kind, path = _of_path(_anchored(name, base))
            return kind, {**path, **settings}
        raise ConfigError(f"unknown judge {name!r}", where="judge", hint=did_you_mean(name, names()))
    if isinstance(settings.get("path"), str | Path):
        settings["path"] = _anchored(str(settings["path"]), base)
    if name == "reward_model" and isinstance(settings.get("model"), str | Path):
        folder = _anchored(str(settings["model"]), base)
        settings["model"] = folder if Path(folder).exists() else str(settings["model"])  # or on the hub
    if name == "weighted_sum":
        settings = anchored_parts(settings, base)
    return name, settings


def anchored_parts(settings: Mapping[str, Any], base: Path | None) -> dict[str, Any]:
    """The settings of ``weighted_sum`` with the paths of its judges no longer relative.

    Raises:
        ConfigError, JudgeError: as ``resolve``.
    """
    of = settings.get("of")
    if not isinstance(of, Mapping):
        return dict(settings)
    parts = {}
    for name, part in of.items():
        parts[name] = part
        if isinstance(part, Mapping) and isinstance(part.get("judge"), str | Path | Mapping):
            kind, inner = _read(part["judge"], base)
            parts[name] = {**part, "judge": {"judge": kind, **inner}}
    return {**settings, "of": parts}


def _of_path(path: str) -> tuple[str, dict[str, Any]]:
    if Path(path).is_dir():
        return "reward_model", {"model": path}
    return read_header(Path(path)).kind, {"path": path}


def _looks_like_path(text: str) -> bool:
    return text.endswith(".safetensors") or "/" in text or "\\" in text


def _anchored(path: str, base: Path | None) -> str:
    return str(named_path(path, base or Path.cwd()))


def _stamp(path: object) -> list[int]:
    if path is None or not Path(str(path)).exists():
        return []
    status = Path(str(path)).stat()
    return [status.st_size, status.st_mtime_ns]
