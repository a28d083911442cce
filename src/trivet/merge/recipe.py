"""A merge recipe: mergekit's YAML as it is, and a few keys of our own in the same file.

::

    merge_method: ties            # `trivet methods merge` lists them
    base_model: ./base
    models:                       # or `slices`, or `modules`
      - model: ./helpful
        parameters: {weight: 0.5, density: 0.6}
      - model: ./harmless-adapter  # a PEFT adapter of the base; also `base+adapter`
        parameters: {weight: [0.2, 0.8]}      # a gradient over the layers
    parameters:
      normalize: true
      density:
        - {filter: mlp, value: 0.7}
        - value: 0.5
    dtype: float32
    out_dtype: bfloat16
    tokenizer_source: base
    seed: 1                       # ours: of the methods that draw

Arithmetic is always in float32 and rounds once, to ``out_dtype`` (or ``dtype``, or the type of the base).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from trivet._validation import Config, did_you_mean, read_yaml, validate
from trivet.catalogue import names
from trivet.errors import ConfigError
from trivet.merge.tokenizer_rule import TokenizerRule

ALIASES = {
    "weight_average": "linear",
    "dare": "dare_linear",
    "della_ties": "della",
    "r_tsvm": "resm",
    "frankenmerge": "passthrough",
}
"""Other names of methods, as papers or users call them."""

FloatType = Literal["float32", "float16", "bfloat16", "float64"]
Parameters = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
"""Settings by name; a key with nothing under it, as many published recipes have it, holds none."""


class SliceSource(Config):
    """Layers ``layer_range[0]`` … ``layer_range[1] − 1`` of one model."""

    model: str
    layer_range: tuple[int, int]
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> "SliceSource":
        if not 0 <= self.layer_range[0] < self.layer_range[1]:
            raise ValueError("layer_range is [first, last + 1] with 0 ≤ first < last + 1")
        return self


class InputModel(Config):
    """One model with its own parameters."""

    model: str
    parameters: Parameters = Field(default_factory=dict)


class Slice(Config):
    """Layers of the output, made from as many layers of each source."""

    sources: list[SliceSource] = Field(min_length=1)
    base_model: str | None = None
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="after")
    def _equally_long(self) -> "Slice":
        lengths = {source.layer_range[1] - source.layer_range[0] for source in self.sources}
        if len(lengths) > 1:
            raise ValueError("all sources of a slice have the same number of layers")
        return self

    @property
    def layers(self) -> int:
        """How many layers of the output it makes."""
        first, end = self.sources[0].layer_range
        return end - first


class Module(Config):
    """The parts of a model under one name; a language model has one."""

    slices: list[Slice] | None = None
    models: list[InputModel] | None = None
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_form(self) -> "Module":
        if bool(self.slices) == bool(self.models):
            raise ValueError("give either `models` or `slices`")
        return self


class Recipe(Config):
    """The content of a recipe."""

    merge_method: str
    base_model: str | None = None
    models: list[InputModel] | None = None
    slices: list[Slice] | None = None
    modules: dict[str, Module] | None = None
    parameters: Parameters = Field(default_factory=dict)
    dtype: FloatType | None = None
    out_dtype: FloatType | None = None
    tokenizer_source: str | None = None
    tokenizer: TokenizerRule | None = None
    chat_template: str | None = None
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _one_form(self) -> "Recipe":
        given = [key for key in ("models", "slices", "modules") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError("give exactly one of `models`, `slices` and `modules`")
        if self.modules is not None and len(self.modules) != 1:
            raise ValueError(f"a language model has one module (received {', '.join(self.modules)})")
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise ValueError("give either `tokenizer_source` or `tokenizer`")
        return self

    @property
    def method(self) -> str:
        """The method's file name in the room ``merge``."""
        return ALIASES.get(self.merge_method, self.merge_method)

    @property
    def module(self) -> Module:
        """The one module that is made."""
        if self.modules is not None:
            return next(iter(self.modules.values()))
        return Module(models=self.models, slices=self.slices)

    @property
    def vocabulary(self) -> TokenizerRule | None:
        """The rule for the vocabulary, where there is one."""
        if self.tokenizer_source is not None:
            return TokenizerRule(source=self.tokenizer_source)
        return self.tokenizer

    @property
    def output_dtype(self) -> str | None:
        """The type that is written; ``None`` for that of the base."""
        return self.out_dtype or self.dtype

    def model_names(self) -> list[str]:
        """Every model that it names, the base first, each once."""
        return list(dict.fromkeys(self._names()))

    def _names(self) -> Iterator[str]:
        if self.base_model is not None:
            yield self.base_model
        module = self.module
        for model in module.models or ():
            yield model.model
        for part in module.slices or ():
            yield from (source.model for source in part.sources)
            if part.base_model is not None:
                yield part.base_model


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: names the file, the key and the rule.
    """
    return parse_recipe(read_yaml(path), where=str(path))


def parse_recipe(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Check a recipe that was read already.

    Raises:
        ConfigError: names ``where``, the key and the rule.
    """
    recipe = validate(Recipe, values, where=where)
    known = [name.removeprefix("merge/") for name in names("merge")]
    if recipe.method not in known:
        raise ConfigError(
            f"merge_method: there is no {recipe.merge_method!r}",
            where=where,
            hint=did_you_mean(recipe.merge_method, [*known, *ALIASES]),
        )
    return recipe
