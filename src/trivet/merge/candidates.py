"""The merges that a search for weights looks at: one recipe, its models opened once, and other weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from trivet._files import canonical_json, sha256_text
from trivet.catalogue import find
from trivet.errors import ConfigError, MergeError
from trivet.merge._settings import fields_of, is_per_expert
from trivet.merge.executor import Merge, prepare
from trivet.merge.layout import config_class, plan_layout
from trivet.merge.recipe import Recipe
from trivet.merge.tokenizer_rule import TokenizerRule

WEIGHT = "weight"


@dataclass(frozen=True)
class Candidates:
    """A recipe whose models are open. ``places`` are those of its ``models`` whose weights are searched."""

    merge: Merge
    places: tuple[int, ...]
    folder: Path
    where: str

    @property
    def experts(self) -> tuple[str, ...]:
        """The models whose weights are searched, as the recipe names them."""
        models = self.merge.recipe.models or []
        return tuple(models[place].model for place in self.places)

    @property
    def model_folder(self) -> Path:
        """The checkpoint whose configuration and tokenizer every candidate has."""
        return self.merge.layout.donor.folder

    def with_weights(self, weights: Sequence[float]) -> Merge:
        """The merge with other weights, one for each of ``experts``.

        Raises:
            ConfigError: the method does not take such weights.
        """
        return self._merge(_weighted(self.merge.recipe, self.places, weights))

    def alone(self, model: str) -> Merge:
        """One model of the recipe as it is.

        Raises:
            MergeError: its tokens are not those of the base.
        """
        if self.merge.vocabulary is not None and model != self.merge.recipe.base_model:
            raise MergeError(
                "runs with its own tokenizer only, and the recipe gives every model that of the base",
                where=model,
                hint="take the base itself as the reference",
            )
        recipe = Recipe.model_validate({"merge_method": "passthrough", "models": [{"model": model}]})
        return replace(self._merge(recipe), vocabulary=None)

    def _merge(self, recipe: Recipe) -> Merge:
        layout = plan_layout(recipe, self.merge.sources, where=self.where)
        return replace(self.merge, recipe=recipe, layout=layout)

    def identity(self, merge: Merge) -> str:
        """SHA-256 of what the tensors of a candidate are made from; no model's name or place is in it."""
        method = [merge.layout.method.name, merge.layout.method.version]
        content = _renamed(merge.recipe, lambda name: merge.identities[name])
        return sha256_text(canonical_json([method, content.model_dump(mode="json", by_alias=True)]))

    def recipe_text(self, weights: Sequence[float]) -> str:
        """The recipe with those weights as YAML that ``trivet merge`` takes from any folder."""
        recipe = _weighted(_renamed(self.merge.recipe, self._absolute), self.places, weights)
        content = recipe.model_dump(mode="json", exclude_defaults=True, by_alias=True)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    def _absolute(self, name: str) -> str:
        if self._place(name) == name and "+" in name:
            return "+".join(self._place(part) for part in name.split("+", 1))
        return self._place(name)

    def _place(self, name: str) -> str:
        path = Path(name).expanduser()
        found = next((place for place in (self.folder / path, path) if place.exists()), None)
        return name if found is None else str(found.absolute())

    def close(self) -> None:
        """Close the models' files."""
        self.merge.sources.close()


def open_candidates(recipe: Recipe, *, folder: Path, where: str) -> Candidates:
    """Open the models of a recipe whose weights will change, and check that its merges fit one running model.

    Args:
        folder: what relative paths in the recipe refer to first; then the working directory.
        where: the recipe's name in messages.

    Raises:
        ConfigError: the recipe has no weights to search, or is wrong.
        ModelError: a model cannot be opened.
        MergeError: the models do not fit together, or a merge would have another shape than its base.
    """
    if recipe.models is None:
        raise ConfigError(
            "the weights of `models` are searched, and the recipe has `slices` or `modules`",
            where=where,
            hint="give the models under `models`",
        )
    method = find(f"merge/{recipe.method}")
    kind = config_class(method)
    field = fields_of(kind).get(WEIGHT)
    if field is None or not is_per_expert(field):
        raise ConfigError(f"{recipe.merge_method} takes no weight for each model", where=where)
    places = tuple(
        place
        for place, model in enumerate(recipe.models)
        if kind.base_is_input or model.model != recipe.base_model
    )
    if len(places) < 2:
        raise ConfigError("a search needs at least two models with weights", where=where)
    merge = prepare(_weighted(recipe, places, [1 / len(places)] * len(places)), folder=folder, where=where)
    candidates = Candidates(merge, places, folder, where)
    try:
        _fits_running_model(candidates)
    except MergeError:
        candidates.close()
        raise
    return candidates


def _fits_running_model(candidates: Candidates) -> None:
    """Candidates run with the tokenizer, the chat template and the shapes of one checkpoint."""
    merge, recipe = candidates.merge, candidates.merge.recipe
    plain = (None, TokenizerRule(source="base"), TokenizerRule(source=recipe.base_model or "base"))
    if recipe.vocabulary not in plain or recipe.chat_template is not None:
        raise MergeError(
            "candidates run with the tokenizer and the chat template of the base",
            where=candidates.where,
            hint="leave out tokenizer_source, tokenizer and chat_template for the search",
        )
    entries = merge.layout.donor.weights.entries
    for tensor in (tensor for shard in merge.shards for tensor in shard.tensors):
        if tensor.shape != entries[tensor.name].shape:
            raise MergeError(
                f"{tensor.name} would have the shape {list(tensor.shape)}, not that of the base",
                where=candidates.where,
                hint="leave out tokenizer_source and tokenizer for the search",
            )


def _weighted(recipe: Recipe, places: Sequence[int], weights: Sequence[float]) -> Recipe:
    models = list(recipe.models or ())
    for place, weight in zip(places, weights, strict=True):
        parameters: dict[str, Any] = {**models[place].parameters, WEIGHT: float(weight)}
        models[place] = models[place].model_copy(update={"parameters": parameters})
    return recipe.model_copy(update={"models": models})


def _renamed(recipe: Recipe, name: Callable[[str], str]) -> Recipe:
    """The recipe with other names of its models."""
    models = [model.model_copy(update={"model": name(model.model)}) for model in recipe.models or ()]
    update: dict[str, Any] = {"models": models}
    if recipe.base_model is not None:
        update["base_model"] = name(recipe.base_model)
        if recipe.tokenizer_source == recipe.base_model:
            update["tokenizer_source"] = update["base_model"]
    return recipe.model_copy(update=update)
