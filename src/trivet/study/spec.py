"""``study.yaml``: which systems are measured on what, and how.

::

    name: my-comparison
    seed: 1
    systems:
      base: {model: smollm2-135m-instruct}
      careful: careful.yaml            # a path, relative to this file
      merged: {merge: merge.yaml}      # a recipe, or its content in place; its checkpoint is the model
      before: {log: logs/before.eval}  # an existing Inspect log stands in for a system
    reference: base
    evaluations: [helpful, honest, harmless, over_refusal, capability]
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trivet._validation import Config, did_you_mean, read_yaml, validate
from trivet.errors import ConfigError
from trivet.merge.recipe import Recipe, parse_recipe
from trivet.study.replicas import with_replicas

SHIPPED = ("helpful", "honest", "harmless", "over_refusal", "capability", "capability_ll")
"""The evaluations that come with Trivet."""

Leg = Literal["helpful", "honest", "harmless", "capability"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]


class EvaluationEntry(Config):
    """One entry of ``evaluations``; a plain name stands for ``{task: name}``.

    Either ``task`` (a shipped name, ``file.py@task`` or ``package/task``) or ``prompts`` with ``judge``.
    """

    name: Name | None = None
    task: str | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    prompts: str | None = None
    judge: str | dict[str, Any] | None = None
    score: str | None = Field(
        default=None, description="which score of the task counts, where it gives several"
    )
    leg: Leg | None = None
    higher_is_better: bool = True
    epochs: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_kind(self) -> "EvaluationEntry":
        if (self.task is None) == (self.prompts is None):
            raise ValueError("give either `task`, or `prompts` with `judge`")
        if self.prompts is not None and self.judge is None:
            raise ValueError("`prompts` needs `judge`: the name of the judge that scores the answers")
        if self.prompts is not None and self.args:
            raise ValueError("`args` belong to a task; `prompts` takes none")
        if self.task is not None and self.judge is not None and self.task not in SHIPPED:
            raise ValueError(
                "`judge` belongs to `prompts` or to a shipped task; other tasks bring their scorer"
            )
        return self

    @property
    def shipped(self) -> bool:
        """True for the evaluations that come with Trivet."""
        return self.task in SHIPPED

    @property
    def label(self) -> str:
        """The name in logs and in the report."""
        if self.name:
            return self.name
        source = Path(self.prompts).stem if self.prompts else str(self.task)
        return re.sub(r"[^A-Za-z0-9._+-]", "-", source.rsplit("@", 1)[-1].rsplit("/", 1)[-1])[:64]


class LogSystem(Config):
    """Existing Inspect logs that stand in for a system: one file, several, or one for each evaluation."""

    log: str | list[str] | dict[str, str]


class Price(Config):
    """US dollars for a million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class StudySpec(Config):
    """The content of ``study.yaml``."""

    name: Name
    seed: int = Field(default=0, ge=0, lt=2**31)
    systems: dict[Name, str | dict[str, Any]] = Field(min_length=1)
    reference: str | None = None
    evaluations: list[EvaluationEntry] = Field(min_length=1)
    epochs: int | None = Field(
        None, ge=1, description="answers a prompt; by default what the task says, or 1"
    )
    seeds: int = Field(default=1, ge=1, le=100, description="replicas of systems that are trained")
    limit: int | None = Field(default=None, ge=1, description="prompts an evaluation, at most")
    max_tokens: int = Field(default=256, ge=1, description="tokens an answer, at most")
    max_cost: float | None = Field(default=None, gt=0, description="US dollars for all systems together")
    prices: dict[str, Price] = Field(default_factory=dict, description="by system")
    legs: dict[str, Any] | None = None
    labels: dict[str, str] = Field(
        default_factory=dict, description="by judge, answers of this study that people labelled (a CSV file)"
    )
    grader: str | list[str] | None = None
    deterministic: bool = False
    allow_circular: bool = False
    max_connections: int = Field(default=32, ge=1, le=1024)
    engine: str = "torch"

    @field_validator("evaluations", mode="before")
    @classmethod
    def _names_to_entries(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"task": entry} if isinstance(entry, str) else entry for entry in value]
        return value

    @property
    def graders(self) -> tuple[str, ...]:
        """The models bound to Inspect's role ``grader``."""
        return (self.grader,) if isinstance(self.grader, str) else tuple(self.grader or ())

    @property
    def log_systems(self) -> list[str]:
        """Names of the systems that existing logs stand in for."""
        return [name for name, value in self.systems.items() if isinstance(value, dict) and "log" in value]

    @property
    def merge_systems(self) -> list[str]:
        """Names of the systems whose checkpoint is made by a merge."""
        return [name for name, value in self.systems.items() if isinstance(value, dict) and "merge" in value]

    @property
    def train_systems(self) -> list[str]:
        """Names of the systems whose checkpoint is made by training."""
        return [name for name, value in self.systems.items() if isinstance(value, dict) and "train" in value]

    def entry(self, label: str) -> EvaluationEntry:
        """The evaluation with that label."""
        return next(entry for entry in self.evaluations if entry.label == label)


def load_study(path: Path) -> StudySpec:
    """Read a study file and check all that can be checked without opening what it names. Replicas are systems
    of their own (``trivet.study.replicas``).

    Raises:
        ConfigError: names the file, the key, the rule and the next step.
    """
    path = Path(path)
    values = read_yaml(path)
    _check_keys(values.get("evaluations"), EvaluationEntry, "evaluations", str(path))
    spec = check_study(validate(StudySpec, values, where=str(path)), where=str(path))
    for name in spec.merge_systems:
        recipe_of(spec, name, path)
    if spec.seeds == 1:
        return spec
    return check_study(
        validate(StudySpec, with_replicas(values, path=path), where=str(path)), where=str(path)
    )


def recipe_of(spec: StudySpec, system: str, study: Path) -> tuple[Recipe, Path | Mapping[str, Any], Path]:
    """The recipe of a system that is merged.

    Args:
        study: the study's file, which its paths are relative to.

    Returns:
        The recipe, what it was read from (its file, or its content in place), and the folder that paths in
        it are relative to.

    Raises:
        ConfigError: it cannot be read, or is no recipe; names the study, the system and the key.
    """
    given, where = _mapping(spec.systems[system])["merge"], f"{study}: systems.{system}.merge"
    folder = study.absolute().parent
    if isinstance(given, Mapping):
        return parse_recipe(given, where=where), given, folder
    if not isinstance(given, str):
        raise ConfigError("must be the path of a recipe, or a recipe in place", where=where)
    path = folder / Path(given).expanduser()
    try:
        return parse_recipe(read_yaml(path), where=str(path)), path, path.parent
    except ConfigError as error:
        raise ConfigError(f"{error.where}: {error.message}", where=where, hint=error.hint) from None


def check_study(spec: StudySpec, *, where: str) -> StudySpec:
    """The rules between keys.

    Raises:
        ConfigError: a rule is broken.
    """
    if spec.reference is not None and spec.reference not in spec.systems:
        raise ConfigError(
            f"reference: there is no system {spec.reference!r}",
            where=where,
            hint=did_you_mean(spec.reference, spec.systems),
        )
    labels = [entry.label for entry in spec.evaluations]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(
                f"evaluations: {label!r} is there twice", where=where, hint="give each entry its own `name`"
            )
    for entry in spec.evaluations:
        if entry.task is not None and not entry.shipped and "@" not in entry.task and "/" not in entry.task:
            raise ConfigError(
                f"evaluations: unknown evaluation {entry.task!r}",
                where=where,
                hint=f"{did_you_mean(entry.task, SHIPPED)} Others are `file.py@task` or `package/task`",
            )
    for name in spec.prices:
        if name not in spec.systems:
            raise ConfigError(
                f"prices: there is no system {name!r}", where=where, hint=did_you_mean(name, spec.systems)
            )
    for name in spec.log_systems:
        validate(LogSystem, _mapping(spec.systems[name]), where=f"{where}: systems.{name}")
    for name in (*spec.merge_systems, *spec.train_systems):
        makers = [key for key in ("model", "merge", "train") if key in _mapping(spec.systems[name])]
        if len(makers) > 1:
            raise ConfigError(
                f"has `{makers[0]}` and `{makers[1]}`; one of them makes the model",
                where=f"{where}: systems.{name}",
                hint="leave one of them out; what is merged or trained stands in `merge:` or `train:` itself",
            )
    return spec


def reference_of(spec: StudySpec) -> str:
    """The system that the others are compared with: ``reference``, or else the first."""
    return spec.reference or next(iter(spec.systems))


def _mapping(value: str | dict[str, Any]) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_keys(entries: Any, kind: type[Config], key: str, where: str) -> None:
    """Unknown keys inside a list are named with the nearest right one."""
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, Mapping):
            for name in entry:
                if name not in kind.model_fields:
                    raise ConfigError(
                        f"unknown key '{key}.{number}.{name}'",
                        where=where,
                        hint=did_you_mean(str(name), kind.model_fields),
                    )
