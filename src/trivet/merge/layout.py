"""What a recipe makes: every tensor of the output, where it comes from, and the settings for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trivet._validation import did_you_mean, validate
from trivet.catalogue import Method, find
from trivet.errors import ConfigError, MergeError
from trivet.merge import parameters
from trivet.merge._settings import MergeConfig, fields_of, is_per_expert
from trivet.merge.layers import VOCABULARY, LayerName, comes_first, count_layers, layer_of
from trivet.merge.recipe import Module, Recipe, Slice, SliceSource
from trivet.merge.sources import Source, Sources
from trivet.merge.weights import Entry, same_shape

# What mergekit's other methods read; a recipe may hold them without effect.
_ELSEWHERE = frozenset(
    {"int8_mask", "t", "weight", "density", "lambda", "normalize", "rescale", "gamma", "epsilon", "scale"}
    | {"filter_wise", "select_topk", "nuslerp_flatten", "nuslerp_row_wise", "r", "alpha", "max_iter", "tol"}
)


@dataclass(frozen=True)
class Part:
    """One source of an output tensor: which tensor of which model."""

    source: Source
    tensor: str

    @property
    def entry(self) -> Entry:
        """Type and shape of what it reads."""
        found = self.source.entry(self.tensor)
        assert found is not None
        return found


@dataclass(frozen=True)
class Output:
    """One tensor of the output. ``config`` is the method's configuration with this tensor's settings."""

    name: str
    entry: Entry
    base: Part | None
    experts: tuple[Part, ...]
    config: MergeConfig

    @property
    def parts(self) -> tuple[Part, ...]:
        """The base, where there is one, and the experts."""
        return (self.base, *self.experts) if self.base is not None else self.experts


@dataclass(frozen=True)
class Layout:
    """All tensors of the output, in the order of the base's file, and the layers that it is made of."""

    method: Method
    outputs: tuple[Output, ...]
    order: tuple[tuple[Source, int], ...]
    donor: Source
    notes: tuple[str, ...]


class _Planner:
    def __init__(self, recipe: Recipe, sources: Sources, where: str) -> None:
        self.recipe, self.sources, self.where = recipe, sources, where
        self.method = find(f"merge/{recipe.method}")
        self.kind = config_class(self.method)
        self.fields = fields_of(self.kind)
        self.notes: dict[str, None] = {}
        self.layers: dict[str, dict[int, list[LayerName]]] = {}
        self.models = [sources.open(name) for name in recipe.model_names()]
        for source in self.models:
            if source.weights.config.get("quantization_config"):
                raise MergeError(
                    "holds quantised weights, which cannot be averaged",
                    where=source.name,
                    hint="dequantise it first: load it with transformers and save_pretrained() in bfloat16",
                )
        self.donor = self.models[0]
        for source in self.models:
            self._note_other_base(source)

    def _note_other_base(self, source: Source) -> None:
        """An adapter whose shapes fit may still belong to another model, another size of one family say."""
        if source.adapter is None or not source.adapter.trained_on:
            return
        wanted = _last_part(source.adapter.trained_on)
        named = [self.recipe.base_model or "", source.name.partition("+")[0], str(source.folder)]
        named.append(str(source.weights.config.get("_name_or_path", "")))
        if wanted not in map(_last_part, named):
            self.notes[
                f"the adapter {source.name} says that it belongs to {source.adapter.trained_on}; "
                f"it is put on {source.folder.name}"
            ] = None

    def plan(self) -> Layout:
        module = self.recipe.module
        slices = module.slices or [self._whole(module)]
        self._known_keys(module, slices)
        names = [name for name in self.donor.weights.entries if not self._skipped(name)]
        outside = [name for name in names if layer_of(name) is None]
        outputs = [self._outside(name, slices[0], module) for name in outside if comes_first(name)]
        order: list[tuple[Source, int]] = []
        for part in slices:
            for step in range(part.layers):
                depth = step / (part.layers - 1) if part.layers > 1 else 1.0
                outputs += self._layer(part, step, len(order), depth, module)
                origin = part.sources[0]
                order.append((self.sources.open(origin.model), origin.layer_range[0] + step))
        outputs += [self._outside(name, slices[-1], module) for name in outside if not comes_first(name)]
        self._nothing_left_out()
        return Layout(self.method, tuple(outputs), tuple(order), self.donor, tuple(self.notes))

    def _whole(self, module: Module) -> Slice:
        """``models`` is one slice of all layers."""
        count = count_layers(self.donor.weights.config, self.donor.name)
        sources = [
            SliceSource(model=model.model, layer_range=(0, count), parameters=model.parameters)
            for model in module.models or ()
        ]
        return Slice(sources=sources)

    def _skipped(self, name: str) -> bool:
        """A tied output layer is the embedding and is not written twice; rotary tables are computed."""
        return (self.donor.weights.tied and name.startswith("lm_head.")) or name.endswith(
            "rotary_emb.inv_freq"
        )

    def _layer(self, part: Slice, step: int, number: int, depth: float, module: Module) -> list[Output]:
        """The tensors of output layer ``number``; their names are those of the first source's layer."""
        origin = part.sources[0]
        made = []
        for layer in self._tensors_of_layer(origin.model, origin.layer_range[0] + step):
            tensors = [layer.numbered(source.layer_range[0] + step) for source in part.sources]
            made.append(self._output(layer.numbered(number), tensors, part, module, depth))
        return made

    def _tensors_of_layer(self, model: str, number: int) -> list[LayerName]:
        if model not in self.layers:
            found: dict[int, list[LayerName]] = {}
            for name in self.sources.open(model).weights.entries:
                layer = layer_of(name)
                if layer is not None and not self._skipped(name):
                    found.setdefault(layer.number, []).append(layer)
            self.layers[model] = found
        if number not in self.layers[model]:
            raise MergeError(
                f"has no layer {number}; it has {len(self.layers[model])}",
                where=model,
                hint="layer_range is [first, last + 1], counted from 0",
            )
        return self.layers[model][number]

    def _outside(self, name: str, part: Slice, module: Module) -> Output:
        return self._output(name, [name] * len(part.sources), part, module, 0.0)

    def _output(self, name: str, tensors: list[str], part: Slice, module: Module, depth: float) -> Output:
        base_name = part.base_model or self.recipe.base_model
        base = None if base_name is None else self._part(base_name, tensors[0])
        takes_base = self.kind.base_is_input
        experts, scopes = [], []
        shared = [part.parameters, module.parameters, self.recipe.parameters]
        for source, tensor in zip(part.sources, tensors, strict=True):
            found = self._part(source.model, tensor)
            if source.model == base_name:
                base = found
                if not takes_base:
                    continue
            experts.append(found)
            scopes.append([source.parameters, *shared])
        given = any(
            key in scope for scope in shared for key, field in self.fields.items() if is_per_expert(field)
        )
        joins = self.kind.base_joins and self.recipe.module.models is not None
        if joins and base is not None and base not in experts and given:
            experts.append(base)
            scopes.append(shared)
        if not experts:
            raise MergeError("the recipe names the base and no other model", where=self.where)
        config = self._config(name, [found.tensor for found in experts], scopes, shared, depth, experts)
        entry = (base or experts[0]).entry
        if entry.floating:
            config.check(len(experts), name)
        for found in experts:
            if not self.recipe.vocabulary:
                same_shape(name, entry, found.entry, found.source.name)
        return Output(name, entry, base, tuple(experts), config)

    def _part(self, model: str, tensor: str) -> Part:
        source = self.sources.open(model)
        if source.entry(tensor) is None and tensor.startswith("lm_head.") and source.weights.tied:
            tensor = self._embedding_of(source)  # its output layer is its embedding
        if source.entry(tensor) is None:
            raise MergeError(
                f"lacks the tensor {tensor}",
                where=source.name,
                hint="the models must be of one architecture; slices must lie within their layers",
            )
        return Part(source, tensor)

    def _config(
        self,
        name: str,
        tensors: list[str],
        scopes: list[list[dict[str, Any]]],
        shared: list[dict[str, Any]],
        depth: float,
        experts: list[Part],
    ) -> MergeConfig:
        values: dict[str, Any] = {}
        for key, field in self.fields.items():
            if is_per_expert(field):
                given = [
                    parameters.resolve(key, scope, tensor, depth)
                    for scope, tensor in zip(scopes, tensors, strict=True)
                ]
                for value, expert in zip(given, experts, strict=True):
                    if value is None and field.is_required():
                        raise ConfigError(
                            f"the parameter {key!r} is not given for {name}", where=expert.source.name
                        )
                if any(value is not None for value in given):
                    default = field.get_default()
                    values[key] = tuple(default if value is None else value for value in given)
            else:
                one = parameters.resolve(key, shared, name, depth)
                if one is not None:
                    values[key] = one
        return validate(self.kind, values, where=f"{self.where}: {name}")

    def _known_keys(self, module: Module, slices: list[Slice]) -> None:
        scopes: list[Mapping[str, Any]] = [self.recipe.parameters, module.parameters]
        for part in slices:
            scopes += [part.parameters, *(source.parameters for source in part.sources)]
        for key in {key for scope in scopes for key in scope}:
            if key in self.fields:
                continue
            if key not in _ELSEWHERE:
                raise ConfigError(
                    f"{self.recipe.merge_method} has no parameter {key!r}",
                    where=self.where,
                    hint=did_you_mean(key, self.fields),
                )
            self.notes[f"the parameter {key!r} has no effect on {self.recipe.merge_method}"] = None

    def _embedding_of(self, source: Source) -> str:
        names = [name for name in source.weights.entries if VOCABULARY.search(name) and comes_first(name)]
        return names[0] if names else "lm_head.weight"

    def _nothing_left_out(self) -> None:
        for source in self.models:
            own_output = any(name.startswith("lm_head.") for name in source.weights.entries)
            if self.donor.weights.tied and not source.weights.tied and own_output:
                raise MergeError(
                    "has an output layer of its own, and that of the base is its embedding",
                    where=source.name,
                    hint=f"{self.donor.name} ties them (tie_word_embeddings); merge models that agree in it",
                )
            extra = sorted(set(source.weights.entries) - set(self.donor.weights.entries))
            extra = [name for name in extra if layer_of(name) is None and not self._skipped(name)]
            if extra:
                self.notes[
                    f"{source.name}: {', '.join(extra)} is not in {self.donor.name} and is left out"
                ] = None


def _last_part(name: str) -> str:
    """The name of a model without owner, folder and upper case."""
    return name.rstrip("/").rpartition("/")[2].lower()


def config_class(method: Method) -> type[MergeConfig]:
    """The configuration of a merging method.

    Raises:
        MergeError: it is none of this room's, as a plug-in's may be.
    """
    if not issubclass(method.config, MergeConfig):
        raise MergeError(
            "its Config must be a trivet.merge._settings.MergeConfig",
            where=method.name,
            hint="mend the plug-in",
        )
    return method.config


def plan_layout(recipe: Recipe, sources: Sources, *, where: str) -> Layout:
    """Open the models and settle every tensor of the output.

    Raises:
        ConfigError: a parameter is missing, unknown or out of bounds.
        ModelError: a model cannot be opened.
        MergeError: the models do not fit together.
    """
    return _Planner(recipe, sources, where).plan()


def output_dtype(recipe: Recipe, entry: Entry) -> torch.dtype:
    """The type that a tensor is written in: the recipe's, or that of the base; integers stay as they are."""
    if not entry.floating or recipe.output_dtype is None:
        return entry.dtype
    return {
        "float32": torch.float32, "float16": torch.float16,
        "bfloat16": torch.bfloat16, "float64": torch.float64,
    }[recipe.output_dtype]  # fmt: skip
