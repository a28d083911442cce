"""A step of a study that makes the model of a system: a merge or a training run."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trivet._validation import did_you_mean
from trivet.errors import ConfigError, StoreError
from trivet.judges.base import Judge
from trivet.models.names import MADE
from trivet.study.address import Description
from trivet.study.store import Store

if TYPE_CHECKING:
    from trivet.study.run import Runner

CHECKPOINT = "checkpoint"
USING = ("model", "decode", "guards")
"""The keys of a system in which a model is named that it runs, besides what it trains or merges."""


@dataclass(frozen=True)
class Expected:
    """What a step is expected to take, as far as it is known."""

    seconds: float | None = None
    bytes_written: int | None = None
    memory_bytes: int | None = None


class CheckpointStep(Protocol):
    """What makes a system's model.

    ``system`` is the first system that needs it, ``made_of`` are the steps whose checkpoints it starts from,
    ``seconds`` what was spent on it here, ``error`` what it raised, and ``expected`` an estimate where it has
    not been made yet.
    """

    system: str
    description: Description
    made_of: "tuple[CheckpointStep, ...]"
    seconds: float
    error: Exception | None

    @property
    def kind(self) -> Literal["merge", "train"]:
        """The key of a system under which it stands."""
        ...

    @property
    def title(self) -> str:
        """What stands in the place of a model's name."""
        ...

    @property
    def provenance(self) -> dict[str, str]:
        """In words: the method, and each input with its identity."""
        ...

    @property
    def content(self) -> dict[str, Any]:
        """What the system's file says of it, with defaults filled in."""
        ...

    @property
    def expected(self) -> Expected:
        """What it takes."""
        ...

    @property
    def trained_on(self) -> frozenset[str]:
        """Digests of the prompts that the weights learnt from in this step."""
        ...

    @property
    def trained_by(self) -> tuple[Judge, ...]:
        """The judges that the weights learnt to please in this step."""
        ...

    def write(self, runner: "Runner") -> None:
        """Make the checkpoint and put it into the store."""
        ...


def name_of(step: CheckpointStep) -> str:
    """The step's name in the plan."""
    return f"{step.kind} {step.system}"


def place_of(step: CheckpointStep, store: Store) -> Path:
    """Where the checkpoint lies or will lie."""
    return store.folder(step.description.address) / CHECKPOINT


def make_checkpoint(step: CheckpointStep, runner: "Runner") -> None:
    """Make a checkpoint that is not in the store yet.

    Raises:
        StoreError: the disk is full.
        Exception: what the step raised, also where it did so at an earlier call.
    """
    if runner.find(step.description.address) is not None:
        return
    if step.error is not None:
        raise step.error
    started = time.perf_counter()
    try:
        step.write(runner)
    except StoreError:
        raise
    except Exception as error:
        step.error = error
        raise
    step.seconds = time.perf_counter() - started


def trained_on(step: CheckpointStep) -> frozenset[str]:
    """Digests of the prompts that a checkpoint learnt from, in its own step and in those before it."""
    return step.trained_on.union(*(trained_on(before) for before in step.made_of))


def trained_by(step: CheckpointStep) -> tuple[Judge, ...]:
    """The judges that a checkpoint learnt to please, in its own step and in those before it."""
    return (*step.trained_by, *(judge for before in step.made_of for judge in trained_by(before)))


def systems_named(settings: Any) -> set[str]:
    """The systems whose checkpoint some settings name as ``system:NAME``, at any depth."""
    if isinstance(settings, str):
        # A merge names an adapter on a model as MODEL+ADAPTER. A text that begins like a name has spaces.
        named = (part for part in settings.split("+") if part.startswith(MADE))
        return {part.removeprefix(MADE) for part in named if not any(map(str.isspace, part))}
    if isinstance(settings, Mapping):
        return set().union(*map(systems_named, settings.values()))
    if isinstance(settings, list):
        return set().union(*map(systems_named, settings))
    return set()


def systems_used(system: Mapping[str, Any]) -> set[str]:
    """The systems whose checkpoint a system's own settings name: as its model, or beside it."""
    return systems_named([system.get(key) for key in USING])


def in_order(named: Mapping[str, set[str]], makers: Collection[str], *, where: str) -> list[str]:
    """Systems so that each comes after those that it names; otherwise in the order given.

    Args:
        named: by system, those whose checkpoints it starts from or runs.
        makers: the systems whose model is made.

    Raises:
        ConfigError: one names a system that makes no checkpoint, or they name one another in a circle.
    """
    for name, others in named.items():
        for other in sorted(others.difference(makers)):
            raise ConfigError(
                f"{MADE}{other}: the study merges or trains no system of that name",
                where=f"{where}: systems.{name}",
                hint=did_you_mean(other, makers),
            )
    sorter = TopologicalSorter({name: sorted(others) for name, others in named.items()})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        raise ConfigError(
            f"made of one another: {' → '.join(reversed(error.args[1]))}", where=f"{where}: systems"
        ) from None


def shared(step: CheckpointStep, others: Mapping[str, CheckpointStep]) -> CheckpointStep:
    """The same step that an earlier system needs, where there is one."""
    address = step.description.address
    return next((other for other in others.values() if other.description.address == address), step)
