"""What a parameter of a recipe means for one tensor: filters, gradients over the layers, precedence.

A value is a scalar; a list of numbers, interpolated over the depth t ∈ [0, 1] of a slice; or a list of
``{filter, value}``, of which the first holds whose filter is part of the tensor's name (none or ``*`` matches
every name). A setting nearer to the model wins: slice source, then slice, then module, then the whole recipe.
These are mergekit's rules, so that its recipes mean the same here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trivet.errors import ConfigError

Settings = Mapping[str, Any]
Scalar = bool | int | float | str


def resolve(key: str, scopes: Iterable[Settings | None], tensor: str, depth: float) -> Scalar | None:
    """The value of ``key`` for a tensor, from the first of ``scopes`` that gives one; ``None`` where none
    does.

    Raises:
        ConfigError: a value is none of the three forms.
    """
    for scope in scopes:
        if scope is not None and key in scope:
            value = evaluate(key, scope[key], tensor, depth)
            if value is not None:
                return value
    return None


def evaluate(key: str, setting: Any, tensor: str, depth: float) -> Scalar | None:
    """One setting's value for a tensor at ``depth``; ``None`` where no filter matches.

    Raises:
        ConfigError: it is none of the three forms.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if isinstance(setting, (bool, int, float, str)):
        return _number(setting)
    if isinstance(setting, Sequence) and setting:
        if all(isinstance(entry, (bool, int, float, str)) for entry in setting):
            return _at_depth([_number(entry) for entry in setting], depth)
        if all(isinstance(entry, Mapping) and "value" in entry for entry in setting):
            for entry in setting:
                wanted = entry.get("filter")
                if wanted is None or wanted == "*" or wanted in tensor:
                    return evaluate(key, entry["value"], tensor, depth)
            return None
    raise ConfigError(
        f"{key}: {setting!r:.80} is no value",
        hint="a number, a list of numbers over the layers, or a list of {filter: …, value: …}",
    )


def _number(value: Scalar) -> Scalar:
    """YAML reads ``1e-3`` as text; as a parameter it is a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _at_depth(values: Sequence[Scalar], depth: float) -> Scalar:
    """Linear interpolation; what is not a number is taken from the step below."""
    scaled = depth * (len(values) - 1)
    below = int(scaled)
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != len(values):
        return values[below]
    above = min(len(values) - 1, below + 1)
    share = scaled - below
    return (1 - share) * numbers[below] + share * numbers[above]
