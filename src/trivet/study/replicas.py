"""Replicas of what a study trains: ``seeds: 3`` makes three systems of each that is trained.

::

    seeds: 3
    systems:
      base: {model: smollm2-135m-instruct}
      harmless: {train: {method: dpo, model: smollm2-135m-instruct, data: pairs.jsonl}}

measures ``base``, ``harmless-1``, ``harmless-2`` and ``harmless-3``, each trained with a seed of its own:
that of the settings, and those after it. A system that starts from a replicated one (``system:harmless``) is
replicated with it. ``reference: harmless`` is the first of them, and a price is that of each.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from trivet._validation import read_yaml
from trivet.errors import ConfigError
from trivet.models.names import MADE
from trivet.study.checkpoint_step import systems_named


def with_replicas(values: Mapping[str, Any], *, path: Path) -> dict[str, Any]:
    """The content of a study whose replicas are systems of their own, and whose ``seeds`` is 1.

    Args:
        values: a study's content, checked key by key.
        path: its file, which the recipes of merges are relative to.

    Raises:
        ConfigError: nothing is trained; or a recipe in a file starts from a system that is replicated.
    """
    count, systems = values.get("seeds", 1), values["systems"]
    if count == 1:
        return dict(values)
    again = _replicated(systems, path)
    if not again:
        raise ConfigError(
            f"seeds: {count}: no system of this study is trained, so there is nothing to repeat",
            where=str(path),
            hint="`epochs` is the number of answers a prompt",
        )
    made: dict[str, Any] = {}
    for name, value in systems.items():
        copies = {_name(name, place): _copy(value, again, place) for place in range(count)}
        made |= copies if name in again else {name: value}
        twice = [copy for copy in copies if copy in systems] if name in again else []
        if twice:
            raise ConfigError(
                f"systems: {twice[0]!r} is also the name of a replica of {name!r}", where=str(path)
            )
    prices = values.get("prices", {})
    reference = values.get("reference") or next(iter(systems))
    return {
        **values,
        "seeds": 1,
        "systems": made,
        "reference": _name(reference, 0) if reference in again else reference,
        "prices": {
            copy: price
            for name, price in prices.items()
            for copy in ([_name(name, place) for place in range(count)] if name in again else [name])
        },
    }


def _name(system: str, place: int) -> str:
    return f"{system}-{place + 1}"


def _replicated(systems: Mapping[str, Any], path: Path) -> set[str]:
    """The systems that are trained, and those that start from what is replicated."""
    found = {name for name, value in systems.items() if isinstance(value, Mapping) and "train" in value}
    while True:
        more = {name for name, value in systems.items() if _starts_from(value, path) & found} - found
        for name in sorted(more):
            if isinstance(systems[name].get("merge"), str):
                raise ConfigError(
                    "starts from a system that `seeds` replicates, and its recipe is a file",
                    where=f"{path}: systems.{name}.merge",
                    hint="write the recipe in place, so that each replica has its own",
                )
        if not more:
            return found
        found |= more


def _starts_from(value: Any, path: Path) -> set[str]:
    if not isinstance(value, Mapping):
        return set()
    recipe = value.get("merge")
    if isinstance(recipe, str):
        recipe = read_yaml(path.absolute().parent / Path(recipe).expanduser())
    return systems_named(recipe) | systems_named(value.get("train"))


def _copy(value: Any, again: Collection[str], place: int) -> Any:
    """A system as its replica has it; ``place`` counts from 0, and the first has the seed as it was."""
    if not isinstance(value, Mapping):
        return value
    copy = {key: _renamed(part, again, place) for key, part in value.items()}
    training = copy.get("train")
    if isinstance(training, Mapping) and isinstance(training.get("seed", 0), int):
        copy["train"] = {**training, "seed": training.get("seed", 0) + place}
    return copy


def _renamed(part: Any, again: Collection[str], place: int) -> Any:
    if isinstance(part, str):
        made = {MADE + name: MADE + _name(name, place) for name in again}
        return "+".join(made.get(one, one) for one in part.split("+"))
    if isinstance(part, Mapping):
        return {key: _renamed(one, again, place) for key, one in part.items()}
    if isinstance(part, list):
        return [_renamed(one, again, place) for one in part]
    return part
