"""What a method's file says of itself: the first sentence without import, the configuration with it."""

import ast
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trivet.catalogue.registry import Method, source_file


@dataclass(frozen=True)
class Setting:
    """One key of a method's configuration. ``default`` is a plain JSON value; ``required`` keys have none."""

    name: str
    type: str
    required: bool
    default: Any
    bounds: str
    description: str


def first_sentence(name: str) -> str:
    """The first line of the docstring of the method ``name``, read without importing it."""
    document = ast.get_docstring(ast.parse(source_file(name).read_text(encoding="utf-8"))) or ""
    return document.split("\n", 1)[0].strip()


def settings(method: Method) -> list[Setting]:
    """The keys of a method's configuration, in the order of its file."""
    return [_setting(name, field) for name, field in method.config.model_fields.items()]


def _setting(name: str, field: FieldInfo) -> Setting:
    default = field.get_default(call_default_factory=True, validated_data={})
    required = default is PydanticUndefined
    if hasattr(default, "model_dump"):
        default = default.model_dump(mode="json")
    elif not (default is None or isinstance(default, (bool, int, float, str, list, dict, tuple))):
        default = str(default)
    return Setting(
        name=field.alias or name,
        type=_type_name(field.annotation),
        required=required,
        default=None if required else default,
        bounds=_bounds(field),
        description=field.description or "",
    )


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return " | ".join(_type_name(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (Ellipsis,):
        part = get_args(annotation)[0]
        if all(hasattr(kind, "model_fields") for kind in _choices(part)):
            return f"list of {_type_name(part)}"
        return f"one {_type_name(part)} for each expert"
    if annotation is type(None):
        return "None"
    return (
        annotation.__name__
        if isinstance(annotation, type) and get_origin(annotation) is None
        else str(annotation).replace("typing.", "")
    )


def _choices(annotation: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    if get_origin(annotation) is Annotated:
        return _choices(get_args(annotation)[0])
    union = isinstance(annotation, UnionType) or get_origin(annotation) is Union
    return list(get_args(annotation)) if union else [annotation]


def _bounds(field: FieldInfo) -> str:
    """The bounds in words, e.g. ``≥ 1, ≤ 64``; empty where there are none."""
    parts = []
    for rule in [*field.metadata, *_rules_of_choices(field.annotation)]:
        match rule:
            case Ge(ge=limit):
                parts.append(f"≥ {limit}")
            case Gt(gt=limit):
                parts.append(f"> {limit}")
            case Le(le=limit):
                parts.append(f"≤ {limit}")
            case Lt(lt=limit):
                parts.append(f"< {limit}")
            case MultipleOf(multiple_of=factor):
                parts.append(f"multiple of {factor}")
            case MinLen(min_length=length):
                parts.append(f"at least {length} long")
            case MaxLen(max_length=length):
                parts.append(f"at most {length} long")
            case _ if getattr(rule, "pattern", None):
                parts.append(f"matches {rule.pattern}")
    return ", ".join(parts)


def _rules_of_choices(annotation: Any) -> list[Any]:
    """The bounds of a union's first choice: a value for each expert has those of the single value."""
    choices = [choice for choice in get_args(annotation) if get_origin(choice) is Annotated]
    return [
        rule for info in choices[:1] for part in get_args(info)[1:] for rule in getattr(part, "metadata", ())
    ]
