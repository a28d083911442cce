"""``system.yaml``: a model, a system prompt, a decoding method and guards.

::

    model: smollm2-135m-instruct
    system_prompt: {file: constitution.txt}   # or the text itself
    decode: {method: best_of_n, n: 4, judge: harmlessness_head}
    sampling: {temperature: 0.7, top_p: 0.95}
    max_tokens: 256

Relative paths refer to the folder of the file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from trivet._validation import Config, did_you_mean, read_yaml, validate
from trivet.errors import ConfigError
from trivet.models.engines import ENGINES
from trivet.models.operations import Sampling

PLAIN = "sampling"
"""The decoding method of a system that names none."""


class SamplingSpec(Config):
    """How the next token is drawn; a request may override each field. ``temperature`` 0 is greedy."""

    temperature: float = Field(0.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[int, float] = Field(default_factory=dict, description="by token id, −100 to 100")

    @field_validator("logit_bias")
    @classmethod
    def _within_bounds(cls, value: dict[int, float]) -> dict[int, float]:
        for token, bias in value.items():
            if token < 0 or not -100 <= bias <= 100:
                raise ValueError("token ids are 0 or more, biases −100 to 100")
        return value

    def sampling(self) -> Sampling:
        """As an engine takes it."""
        values = {**self.model_dump(), "logit_bias": tuple(sorted(self.logit_bias.items()))}
        return Sampling(**values)


class ReasoningSpec(Config):
    """The markers around a reasoning block in the model's text."""

    start: str = Field("<think>", min_length=1)
    end: str = Field("</think>", min_length=1)

    @model_validator(mode="after")
    def _differ(self) -> "ReasoningSpec":
        if self.start == self.end:
            raise ValueError("start and end must differ")
        return self


class SystemSpec(Config):
    """The content of ``system.yaml``, with files read and paths made absolute.

    ``decode`` and each of ``guards`` hold the method's name (under ``method`` and ``guard``) and its
    settings, which are checked against the method's own configuration when the system is built.
    """

    model: str = Field(min_length=1)
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")
    engine: str = "torch"
    system_prompt: str | None = None
    decode: dict[str, Any] = Field(default_factory=lambda: {"method": PLAIN})
    sampling: SamplingSpec = Field(default_factory=lambda: SamplingSpec.model_validate({}))
    max_tokens: int = Field(512, ge=1, description="tokens an answer, where the request does not say")
    reasoning: ReasoningSpec | None = None
    guards: list[dict[str, Any]] = Field(default_factory=list)
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | dict[str, Any] | None = None
    api_key_env: str | None = Field(None, description="environment variable with an endpoint's key")

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str) -> str:
        if value not in ENGINES:
            raise ValueError(f"no such engine; {did_you_mean(value, ENGINES)}")
        return value

    @field_validator("decode", mode="before")
    @classmethod
    def _named_decode(cls, value: Any) -> Any:
        return _named(value, "method")

    @field_validator("guards", mode="before")
    @classmethod
    def _named_guards(cls, value: Any) -> Any:
        return [_named(entry, "guard") for entry in value] if isinstance(value, list) else value


def _named(value: Any, key: str) -> Any:
    """A bare name stands for a mapping of the name alone."""
    if isinstance(value, str):
        return {key: value}
    if isinstance(value, Mapping) and not isinstance(value.get(key), str):
        near = f" (not {next(iter(value))!r})" if value else ""
        raise ValueError(f"the key {key!r} must name the method{near}")
    return value


Source = str | Path | Mapping[str, Any] | SystemSpec


def load_spec(source: Source, *, base: Path | None = None) -> tuple[SystemSpec, Path]:
    """Read a system's specification.

    Args:
        source: the path of a YAML file or of a folder that holds ``system.yaml``, the mapping that such
            a file would hold, or a bare model name.
        base: folder that relative paths refer to, by default the file's own or the working directory.

    Returns:
        The specification with its name filled in, and the folder that relative paths in it refer to.

    Raises:
        ConfigError: names the file, the key, the rule and the next step.
    """
    folder = Path(base) if base is not None else Path.cwd()
    if isinstance(source, SystemSpec):
        return _with_name(source, None), folder
    if isinstance(source, Mapping):
        return _with_name(_from_mapping(source, folder, "system"), None), folder
    text = str(source)
    path = folder / Path(text).expanduser()
    if (path / "system.yaml").is_file():
        path = path / "system.yaml"
    if path.suffix.lower() not in {".yaml", ".yml"}:
        return _with_name(_from_mapping({"model": text}, folder, text), None), folder
    stem = path.resolve().parent.name if path.stem == "system" else path.stem
    return _with_name(_from_mapping(read_yaml(path), path.parent, str(path)), stem), path.parent


def _from_mapping(values: Mapping[str, Any], folder: Path, where: str) -> SystemSpec:
    values = dict(values)
    if isinstance(values.get("model"), str):
        values["model"] = anchored_model(values["model"], folder)
    prompt = values.get("system_prompt")
    if isinstance(prompt, Mapping):
        values["system_prompt"] = _read_prompt(prompt, folder, where)
    return validate(SystemSpec, values, where=where)


def anchored_model(model: str, folder: Path) -> str:
    """A model's folder or file relative to the YAML file; other names stay as they are."""
    if re.match(r"(openai|inspect):", model):
        return model
    path = Path(model).expanduser()
    if path.is_absolute():
        return str(path)
    if (folder / path).exists() or model.startswith("."):
        return str((folder / path).resolve())
    return model


def _read_prompt(prompt: Mapping[str, Any], folder: Path, where: str) -> str:
    if set(prompt) != {"file"} or not isinstance(prompt["file"], str):
        raise ConfigError("system_prompt: give the text itself, or {file: PATH}", where=where)
    path = folder / Path(prompt["file"]).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ConfigError(f"system_prompt: no such file: {path}", where=where) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"system_prompt: {path} cannot be read as UTF-8: {error}", where=where) from None


def _with_name(spec: SystemSpec, stem: str | None) -> SystemSpec:
    if spec.name is not None:
        return spec
    raw = stem or re.split(r"[/#]", spec.model.rstrip("/"))[-1].removesuffix(".gguf")
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", raw).strip("-._+")[:64] or "system"
    return spec.model_copy(update={"name": name})
