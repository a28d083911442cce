"""What a recipe makes: every tensor of the output, where it comes from, and the settings for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trivet._validation import did_you_mean
from trivet.catalogue import Method, find
from trivet.errors import ConfigError, MergeError
from trivet.merge import architecture, parameters
from trivet.merge._settings import MergeConfig, fields_of, is_per_expert, settings_for
from trivet.merge.layers import OUTPUT_LAYER, LayerName, comes_first, layer_of
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
        self.donor = self.models[0]
        architecture.refuse_unfit(self.donor, self.models)
        self._note(architecture.other_bases(self.models, recipe.base_model))

    def _note(self, notes: Iterable[str]) -> None:
        self.notes |= dict.fromkeys(notes)

    def plan(self) -> Layout:
        module = self.recipe.module
        slices = module.slices or [self._whole(module)]
        self._known_keys(module, slices)
        outside = [name for name in self._names(self.donor) if layer_of(name) is None]
        outputs = [self._outside(name, slices[0], module) for name in outside if comes_first(name)]
        order: list[tuple[Source, int]] = []
        for part in slices:
            for step in range(part.layers):
                depth = step / (part.layers - 1) if part.layers > 1 else 1.0
                outputs += self._layer(part, step, len(order), depth, module)
                origin = part.sources[0]
                order.append((self.sources.open(origin.model), origin.layer_range[0] + step))
        outputs += [self._outside(name, slices[-1], module) for name in outside if not comes_first(name)]
        architecture.same_layers(self.donor, [output.name for output in outputs])
        used: dict[Source, set[str]] = {source: set() for source in self.models}
        for found in (found for output in outputs for found in output.parts):
            used[found.source].add(found.tensor)
        self._note(architecture.left_out(self.donor, used, whole=module.models is not None))
        return Layout(self.method, tuple(outputs), tuple(order), self.donor, tuple(self.notes))

    def _whole(self, module: Module) -> Slice:
        """``models`` is one slice of all layers."""
        count = architecture.equal_depth(self.donor, self.models)
        sources = [
            SliceSource(model=model.model, layer_range=(0, count), parameters=model.parameters)
            for model in module.models or ()
        ]
        return Slice(sources=sources)

    def _names(self, source: Source) -> list[str]:
        """The tensors of a model that have a place in the output."""
        stored = source.weights.entries.items()
        return [name for name, entry in stored if not architecture.is_skipped(self.donor, name, entry.shape)]

    def _layer(self, part: Slice, step: int, number: int, depth: float, module: Module) -> list[Output]:
        """The tensors of output layer ``number``: the base's, without a base the first source's."""
        numbers = [source.layer_range[0] + step for source in part.sources]
        models = [source.model for source in part.sources]
        layers, *_ = [self._tensors_of_layer(*pair) for pair in zip(models, numbers, strict=True)]
        base = part.base_model or self.recipe.base_model
        if base is not None:
            own = dict(zip(models, numbers, strict=True)).get(base, numbers[0])
            layers = self._tensors_of_layer(base, own)
        made = []
        for layer in layers:
            tensors = [layer.numbered(place) for place in numbers]
            made.append(self._output(layer.numbered(number), tensors, part, module, depth))
        return made

    def _tensors_of_layer(self, model: str, number: int) -> list[LayerName]:
        if model not in self.layers:
            found: dict[int, list[LayerName]] = {}
            for name in self._names(self.sources.open(model)):
                layer = layer_of(name)
                if layer is not None:
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
        if base_name is None and self.kind.needs_base:
            raise MergeError(
                f"{self.recipe.merge_method} needs base_model",
                where=self.where,
                hint="name the model that the others were fine-tuned from",
            )
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
        if source.entry(tensor) is None and OUTPUT_LAYER.search(tensor) and source.weights.tied:
            tensor = source.weights.embedding or tensor  # its output layer is its embedding
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
        names = [expert.source.name for expert in experts]
        return settings_for(self.kind, values, names, where=f"{self.where}: {name}")

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
