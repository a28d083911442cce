"""The systems of a study, opened: what determines their answers, and how Inspect reaches them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet._files import canonical_json, sha256_text
from trivet._validation import validate
from trivet.errors import ConfigError, DataError
from trivet.judges.base import Judge
from trivet.models.names import MADE
from trivet.study.address import file_digest
from trivet.study.checkpoint_step import CheckpointStep
from trivet.study.score import read_log
from trivet.study.spec import EvaluationEntry, LogSystem, StudySpec
from trivet.systems import System
from trivet.systems.spec import load_spec

if TYPE_CHECKING:
    from inspect_ai.model import Model


@dataclass(frozen=True)
class Prepared:
    """A system of a study that can be used.

    ``identity`` is a digest of what determines its answers. ``system`` is ``None`` and ``logs`` (by
    evaluation) is set where existing logs stand in for it; ``maker`` is what made its model, ``uses`` are by
    system the steps whose checkpoints it names in other places (``system:NAME``).
    """

    name: str
    identity: str
    system: System | None = None
    logs: Mapping[str, Path] | None = None
    maker: CheckpointStep | None = None
    uses: Mapping[str, CheckpointStep] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def judges(self) -> tuple[Judge, ...]:
        """The judges that choose or block its answers."""
        return self.system.judges if self.system is not None else ()

    @property
    def makers(self) -> tuple[CheckpointStep, ...]:
        """The steps of the study that made a model which it runs."""
        return (*([] if self.maker is None else [self.maker]), *self.uses.values())

    @property
    def seeded(self) -> bool:
        """Whether its engine takes a seed."""
        return self.system is not None and self.system.engine.capabilities.seed

    @property
    def remote(self) -> bool:
        """Whether it answers through an endpoint, whose memory is not ours to measure."""
        return self.system is not None and self.system.spec.model.startswith(("openai:", "inspect:"))

    def model(self) -> "Model":
        """A fresh Inspect model that answers as this system."""
        from inspect_ai.model import get_model

        assert self.system is not None
        return get_model(f"trivet/{self.name}", memoize=False, system=self.system)


def read_system(name: str, spec: StudySpec, base: Path, *, checkpoint: Path | None = None) -> System:
    """Read one system of a study; its model is not opened.

    Args:
        base: the study's folder.
        checkpoint: where its model will lie, for a system whose model is made in the study.

    Raises:
        TrivetError: its specification is wrong.
    """
    value = spec.systems[name]
    if checkpoint is not None and isinstance(value, dict):
        value = {
            **{key: entry for key, entry in value.items() if key not in ("merge", "train")},
            "model": str(checkpoint),
        }
    system_spec, folder = load_spec(value, base=base)
    update: dict[str, Any] = {"name": name}
    if "engine" not in system_spec.model_fields_set:
        update["engine"] = spec.engine
    engine = update.get("engine", system_spec.engine)
    if engine == "auto":
        raise ConfigError(
            "engine: auto would let this machine choose what is measured; a study names its engine",
            where=f"systems.{name}",
            hint="write engine: torch or engine: llamacpp, or leave it out (torch)",
        )
    if engine != "torch" and (checkpoint is not None or system_spec.model.startswith(MADE)):
        raise ConfigError(
            f"engine: {engine} does not run what a study makes", where=f"systems.{name}", hint="leave it out"
        )
    system = System(system_spec.model_copy(update=update), base=folder, deterministic=spec.deterministic)
    _ = system.judges  # a mistake in its decoding method or guards is told before weights are made or read
    return system


def prepare(
    system: System,
    maker: CheckpointStep | None = None,
    uses: Mapping[str, CheckpointStep] | None = None,
) -> Prepared:
    """Open a system of a study.

    Args:
        maker: what made its model.
        uses: see ``Prepared``.

    Raises:
        TrivetError: its model cannot be loaded.
    """
    facts = system.open().describe()
    uses, model = uses or {}, system.spec.model
    made = maker or (uses[model.removeprefix(MADE)] if model.startswith(MADE) else None)
    if made is not None:
        # Where the store lies says nothing, and another maker of equal weights may share the engine.
        title = model if maker is None else maker.title
        engine = {**facts["engine"], "model": title, "source": made.provenance}
        facts |= {"model_name": title, "engine": engine}
    return Prepared(
        name=system.name, identity=system.hash12, system=system, maker=maker, uses=uses, facts=facts
    )


def prepare_logs(name: str, spec: StudySpec, base: Path) -> Prepared:
    """Open the logs that stand in for a system.

    Raises:
        TrivetError: a log is missing, damaged, or of no evaluation of the study.
    """
    value = spec.systems[name]
    assert isinstance(value, dict)
    return _from_logs(name, value, spec.evaluations, base)


def _from_logs(name: str, value: dict[str, Any], entries: Sequence[EvaluationEntry], base: Path) -> Prepared:
    log = validate(LogSystem, value, where=f"systems.{name}").log
    if isinstance(log, dict):
        logs = {label: base / file for label, file in log.items()}
    else:
        logs = {}
        for file in [log] if isinstance(log, str) else log:
            header = read_log(base / file, header_only=True)
            logs[_matching(header.eval.task, entries, base / file)] = base / file
    labels = [entry.label for entry in entries]
    for label, path in logs.items():
        if label not in labels:
            raise DataError(
                f"the study has no evaluation {label!r}; it has {', '.join(labels)}", where=f"systems.{name}"
            )
        if not path.is_file():
            raise DataError("no such file", where=str(path))
    digests = {label: file_digest(path) for label, path in logs.items()}
    identity = sha256_text(canonical_json({"logs": digests}))
    model = read_log(next(iter(logs.values())), header_only=True).eval.model
    facts = {"identity": f"{name}@{identity[:12]}", "model_name": model, "logs": digests}
    return Prepared(name=name, identity=identity, logs=logs, facts=facts)


def _matching(task: str, entries: Sequence[EvaluationEntry], path: Path) -> str:
    """Which evaluation a log belongs to, by the name of its task."""
    short = task.rsplit("/", 1)[-1]
    for entry in entries:
        own = str(entry.task or "").rsplit("@", 1)[-1].rsplit("/", 1)[-1]
        if short in (entry.label, own):
            return entry.label
    raise DataError(
        f"is of the task {task!r}, which is no evaluation of this study",
        where=str(path),
        hint="name the evaluation: log: {evaluation: file.eval}",
    )
