"""Settings that merging methods share, and how a value is given for each expert.

A key that may differ from expert to expert takes one number for all of them or a list with one number each.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from trivet import _validation
from trivet.errors import ConfigError

_Weight = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(ge=0, le=1)]

Weight = _Weight | tuple[_Weight, ...]
"""A factor for each expert."""

Fraction = _Fraction | tuple[_Fraction, ...]
"""A share in [0, 1] for each expert."""

Value = TypeVar("Value", bound=float)
SettingsType = TypeVar("SettingsType", bound="MergeConfig")


class MergeConfig(_validation.Config):
    """Base of the merging methods' configurations. Keys have the names that recipes use.

    What the executor has to know of a method stands beside them: whether the base is one more model to be
    merged where it is listed (``base_is_input``), and also where it is not listed but has a weight
    (``base_joins``); whether there has to be one (``needs_base``); how often the tensors are read
    (``passes``); and whether it needs whole matrices (``whole``).
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    base_is_input: ClassVar[bool] = False
    base_joins: ClassVar[bool] = False
    needs_base: ClassVar[bool] = False
    passes: ClassVar[int] = 1
    whole: ClassVar[bool] = False

    def check(self, count: int, where: str) -> None:
        """Refuse what does not go together for ``count`` experts; asked for every tensor before any is read.

        Raises:
            MergeError: names ``where``, the tensor.
        """


class TaskVectorConfig(MergeConfig):
    """What every method shares that adds combined task vectors W_t − W_0 to the base W_0."""

    needs_base: ClassVar[bool] = True

    weight: Weight = Field(description="factor w_t of each expert's task vector")
    normalize: bool = Field(False, description="divide by the sum of the weights that took part")
    lambda_: float = Field(
        1.0, alias="lambda", ge=-100, le=100, description="factor of the combined task vector"
    )


def each(value: float | Sequence[float], count: int, key: str) -> list[float]:
    """``value`` for each of ``count`` experts.

    Raises:
        ConfigError: a list of another length.
    """
    if isinstance(value, (int, float)):
        return [float(value)] * count
    if len(value) != count:
        raise ConfigError(
            f"{key}: {len(value)} values for {count} experts", hint="give one number, or one each"
        )
    return [float(entry) for entry in value]


def settings_for(
    kind: type[SettingsType], values: Mapping[str, Any], experts: Sequence[str], *, where: str
) -> SettingsType:
    """Build ``kind``; where it holds a value for each expert, a tuple, they are in the order of ``experts``.

    Raises:
        ConfigError: a value is wrong; names ``where``, the key, the rule and the value, and the expert whose
            value it is.
    """
    try:
        return _validation.validate(kind, values, where=where)
    except ConfigError:
        for key, field in fields_of(kind).items():
            given = values.get(key)
            if is_per_expert(field) and isinstance(given, tuple):
                for value, expert in zip(given, experts, strict=True):
                    _check_value(key, field, value, where=f"{where}: {expert}")
        raise


def _check_value(key: str, field: FieldInfo, value: Any, *, where: str) -> None:
    """Refuse a value for one expert. Pydantic says of a union what each of its choices lacks, not this."""
    single = next(choice for choice in get_args(field.annotation) if get_origin(choice) is not tuple)
    try:
        TypeAdapter(single).validate_python(value)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"]
        raise ConfigError(f"{key}: {said} (received {value!r:.80})", where=where) from None


def is_per_expert(field: FieldInfo) -> bool:
    """Whether a key of a configuration takes one value for each expert."""
    return any(get_origin(choice) is tuple for choice in get_args(field.annotation))


def key_of(name: str, field: FieldInfo) -> str:
    """The key as it is written in a recipe."""
    return field.alias or name


def fields_of(config: type[Any]) -> dict[str, FieldInfo]:
    """The fields of a configuration by the key that is written in a recipe."""
    return {key_of(name, field): field for name, field in config.model_fields.items()}
