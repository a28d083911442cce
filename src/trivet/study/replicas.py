"""Replicas of what a study trains: ``seeds: 3`` makes three systems of each that is trained.

::

    seeds: 3
    systems:
      base: {model: smollm2-135m-instruct}
      harmless: {train: {method: dpo, model: smollm2-135m-instruct, data: pairs.jsonl}}

measures ``base``, ``harmless-1``, ``harmless-2`` and ``harmless-3``, each trained with a seed of its own:
that of the settings, and those after it. A system that starts from a replicated one (``system:harmless``), or
runs it, is replicated with it. ``reference: harmless`` is the first of them, and a price is that of each.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trivet._validation import read_yaml
from trivet.errors import ConfigError, TrivetError
from trivet.models.names import MADE
from trivet.study.checkpoint_step import USING, systems_named, systems_used
from trivet.systems.spec import load_spec

TESTED = "high_confidence_rlhf"
"""The method that uses up prompts by a test, and has so many tests as ``split`` says."""


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
    _check_tests(systems, count, path)
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


def _check_tests(systems: Mapping[str, Any], count: int, path: Path) -> None:
    """Replicas whose safety tests may look at the same prompts share their delta, or are refused.

    Raises:
        ConfigError: ``split`` leaves no test for the last replica.
    """
    for name, value in systems.items():
        settings = value.get("train") if isinstance(value, Mapping) else None
        if not isinstance(settings, Mapping) or settings.get("method") != TESTED:
            continue
        split = settings.get("split", 1)
        if isinstance(split, int) and split < count:
            raise ConfigError(
                f"{count} replicas test {count} times, on safety prompts that they may have in common, and "
                f"split: {split} allows {'one test' if split == 1 else f'{split} tests'}",
                where=f"{path}: systems.{name}.train",
                hint=f"split: {count} shares delta between the tests; or write a system for each seed, with "
                "safety prompts of its own (safety: FILE)",
            )


def _name(system: str, place: int) -> str:
    return f"{system}-{place + 1}"


def _replicated(systems: Mapping[str, Any], path: Path) -> set[str]:
    """The systems that are trained, and those that start from what is replicated."""
    found = {name for name, value in systems.items() if isinstance(value, Mapping) and "train" in value}
    while True:
        more = {name for name, value in systems.items() if _starts_from(value, path) & found} - found
        for name in sorted(more):
            value = systems[name]
            if isinstance(value, str) and not value.startswith(MADE):
                raise ConfigError(
                    "runs a system that `seeds` replicates, and stands in a file",
                    where=f"{path}: systems.{name}",
                    hint="write it in place, so that each replica has its own",
                )
            if isinstance(value, Mapping) and isinstance(value.get("merge"), str):
                raise ConfigError(
                    "starts from a system that `seeds` replicates, and its recipe is a file",
                    where=f"{path}: systems.{name}.merge",
                    hint="write the recipe in place, so that each replica has its own",
                )
        if not more:
            return found
        found |= more


def _starts_from(value: Any, path: Path) -> set[str]:
    if isinstance(value, str):
        return _used_in_file(value, path)
    if not isinstance(value, Mapping):
        return set()
    recipe = value.get("merge")
    if isinstance(recipe, str):
        recipe = read_yaml(path.absolute().parent / Path(recipe).expanduser())
    return systems_named(recipe) | systems_named(value.get("train")) | systems_used(value)


def _used_in_file(system: str, path: Path) -> set[str]:
    with suppress(TrivetError):  # a file with a mistake is told in its own step
        spec = load_spec(system, base=path.absolute().parent)[0]
        return systems_used(spec.model_dump(mode="json"))
    return set()


def _copy(value: Any, again: Collection[str], place: int) -> Any:
    """A system as its replica has it; ``place`` counts from 0, and the first has the seed as it was."""
    if not isinstance(value, Mapping):
        return _renamed(value, again, place)
    named = ("train", "merge", *USING)
    copy = {key: _renamed(part, again, place) if key in named else part for key, part in value.items()}
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
