"""Typed configuration: unknown keys, wrong types and values out of bounds give one clear message."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trivet.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys are errors, no silent coercion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, protected_namespaces=())


ConfigType = TypeVar("ConfigType", bound=BaseModel)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest of ``known``, or lists them all when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known"


def validate(kind: type[ConfigType], values: Mapping[str, Any], *, where: str) -> ConfigType:
    """Build ``kind`` from ``values``.

    Raises:
        ConfigError: names ``where``, the key, the rule and the value received.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A misspelt key is also a missing one; the misspelling says more.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            names = _field_names(kind, first["loc"][:-1])
            raise ConfigError(
                f"unknown key {key!r}", where=where, hint=did_you_mean(str(first["loc"][-1]), names)
            ) from None
        if first["type"] == "union_tag_invalid":
            context = first["ctx"]
            expected = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
            raise ConfigError(
                f"{key}: unknown {context['discriminator'].strip(chr(39))} {context['tag']!r:.80}",
                where=where,
                hint=did_you_mean(context["tag"], expected),
            ) from None
        rule = first["msg"].removeprefix("Value error, ")
        if not key:  # a rule over several keys, whose message names them
            raise ConfigError(rule, where=where) from None
        shown = "" if first["type"] == "missing" else f" (received {first.get('input')!r:.80})"
        raise ConfigError(f"{key}: {rule}{shown}", where=where) from None


def _field_names(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are known at ``location``, also inside lists and mappings of models."""
    for part in location:
        field = kind.model_fields.get(str(part))
        if field is None:
            continue  # a place in a list, a key of a mapping, or the name of a choice
        models = _models_in(field.annotation)
        if len(models) > 1:  # told apart by a tag, which is part of the location
            models = [model for model in models if _tags(model) & set(location)]
        if len(models) != 1:
            return []
        kind = models[0]
    return [field.alias or name for name, field in kind.model_fields.items()]


def _tags(model: type[BaseModel]) -> set[Any]:
    """What tells this model of a union apart: the values of its ``Literal`` fields."""
    literals = [field.annotation for field in model.model_fields.values()]
    return {value for kind in literals if get_origin(kind) is Literal for value in get_args(kind)}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type is made of, as in ``list[Model] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, which YAML would silently let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, is not UTF-8 YAML, or is not a mapping.
    """
    path = Path(path)
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), hint="check the path") from None
    except UnicodeDecodeError as error:
        byte, line = error.object[error.start], error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"is not UTF-8: byte 0x{byte:02x} in line {line}",
            where=str(path),
            hint="save the file as UTF-8",
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ConfigError(f"is not valid YAML: {said}", where=str(path), hint="mend that line") from None
    if not isinstance(value, dict):
        raise ConfigError("the top level must be a mapping of keys to values", where=str(path))
    return value
