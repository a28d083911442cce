"""A study whose parts are opened: systems, evaluations, judges, and the checks that need several of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.errors import ConfigError, StudyError, TrivetError
from trivet.judges.base import Judge
from trivet.judges.resolve import resolve
from trivet.study.address import derived_seed
from trivet.study.cell import Cell
from trivet.study.checkpoint_step import CheckpointStep
from trivet.study.circular import Circle, Steered
from trivet.study.circular_uses import check_circles, graded_by_role, refuse_circular_training
from trivet.study.evaluations import Evaluation, anchored_judge, resolve_evaluation
from trivet.study.generate import Failure, failure_of
from trivet.study.legs import resolve_legs
from trivet.study.open_systems import Needs, needs_of, open_systems
from trivet.study.own_labels import qualities
from trivet.study.run import Runner
from trivet.study.spec import EvaluationEntry, StudySpec, reference_of
from trivet.study.systems import Prepared
from trivet.study.train_step import check_gives_models
from trivet.systems import System

if TYPE_CHECKING:
    from inspect_ai.model import Model


@dataclass
class Study:
    """A study whose parts are opened: systems, evaluations, judges. What could not be is a failure.

    ``makers`` holds, by system, the merge or the training run that makes its model, ``made`` where that lies,
    ``needs`` what it needs of others, ``learning`` the prompts and the judges that trained it in the study.
    ``waiting`` are, in a plan, systems whose training, or that of one which they need, is still to be done;
    what they are besides the model is ``None`` where it cannot be read before that.
    """

    spec: StudySpec
    base: Path
    systems: dict[str, Prepared] = field(default_factory=dict)
    makers: dict[str, CheckpointStep] = field(default_factory=dict)
    made: dict[str, Path] = field(default_factory=dict)
    needs: dict[str, Needs] = field(default_factory=dict)
    learning: dict[str, Steered] = field(default_factory=dict)
    waiting: dict[str, System | None] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    judges: dict[str, tuple[Judge, ...]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    circles: list[Circle] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    qualities: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: "dict[str, Model | list[Model]] | None" = None

    @property
    def reference(self) -> str:
        """The system that the others are compared with; another one where that could not be opened."""
        wanted = reference_of(self.spec)
        return wanted if wanted in (*self.systems, *self.waiting) else next(iter(self.systems))

    def cells(self, prompts: Mapping[str, int], max_tokens: int) -> list[Cell]:
        """Every system on every evaluation."""
        return [
            Cell(
                system=system,
                evaluation=evaluation,
                ids=tuple(evaluation.subset(prompts[evaluation.label], seed=self.spec.seed)),
                max_tokens=max_tokens,
                seed=derived_seed(self.spec.seed, "answers"),
                deterministic=self.spec.deterministic,
                judges=self._judge_identities(evaluation),
            )
            for evaluation in self.evaluations
            for system in self.systems.values()
        ]

    def _judge_identities(self, evaluation: Evaluation) -> tuple[str, ...]:
        judges = self.judges[evaluation.label]
        role = self.spec.graders if graded_by_role(evaluation, judges) else ()
        return (*(judge.identity for judge in judges), *role)


def open_study(
    spec: StudySpec, path: Path, runner: Runner, *, made: dict[str, Path], train: bool = True
) -> Study:
    """Open all that a study names; checkpoints that the study makes come first, in the runner's store.

    A system, or an evaluation, that cannot be opened is a failure of its own and does not stop the others.

    Args:
        path: the study's file.
        made: filled with the folders of the checkpoints that the study makes, by system. The caller lets
            ``system:NAME`` mean them (``made_models``), here and as long as the study is used.
        train: without it nothing is trained, and the systems that need it are ``waiting``.

    Raises:
        ConfigError: the study file is wrong.
        StoreError: the disk is full.
        StudyError: a use is circular and not allowed; or nothing could be opened, and then the first failure
            is raised as it is.
    """
    study = Study(spec=spec, base=path.absolute().parent, made=made, needs=needs_of(spec, path))
    check_gives_models(spec, path)
    first: TrivetError | None = None
    for entry in spec.evaluations:
        try:
            evaluation = resolve_evaluation(entry, base=study.base, epochs=spec.epochs)
            study.judges[entry.label] = evaluation_judges(entry, study.base)
            study.evaluations.append(evaluation)
        except TrivetError as error:
            first = first or error
            study.failures[f"evaluation {entry.label}"] = failure_of(error)
    refuse_circular_training(study, path)
    failure = open_systems(study, path, runner, train=train)
    first = first or failure
    if first is not None and not ((study.systems or study.waiting) and study.evaluations):
        raise first
    check_circles(study, where=str(path))
    check_legs(study, where=str(path))
    study.notes += _notes(study)
    study.qualities = qualities(
        {judge.name: judge for found in study.judges.values() for judge in found},
        spec.labels,
        [str(system.facts["identity"]) for system in study.systems.values()],
        base=study.base,
        seed=derived_seed(spec.seed, "calibrate"),
        where=str(path),
    )
    study.roles = grader_roles(spec)
    check_budget(spec, study.systems, where=str(path))
    return study


def evaluation_judges(entry: EvaluationEntry, base: Path) -> tuple[Judge, ...]:
    """The judges, in Trivet's sense, that score an evaluation; rules and a task's own scorers are none."""
    if entry.judge is not None:
        return (resolve(anchored_judge(entry.judge, base)),)
    if entry.task in ("harmless", "over_refusal"):
        return (resolve(anchored_judge(entry.args.get("judge", "refusal"), base)),)
    return ()


def _notes(study: Study) -> list[str]:
    wanted, notes = reference_of(study.spec), []
    if study.reference != wanted:
        notes.append(
            f"the reference {wanted} could not be opened: the others are compared with {study.reference}, "
            "and honest is measured against it"
        )
    if study.spec.max_cost is not None and study.spec.grader:
        notes.append("max_cost counts the systems; what the grader costs is not known and not counted")
    return notes


def check_legs(study: Study, *, where: str) -> None:
    """``legs`` names evaluations and components that the study has.

    Raises:
        ConfigError: it does not.
    """
    components = {e.label: sorted({str(row["component"]) for row in e.rows}) for e in study.evaluations}
    try:
        resolve_legs(components, study.spec.evaluations, study.spec.legs)
    except ConfigError as error:
        raise ConfigError(str(error), where=where) from None


def check_budget(spec: StudySpec, systems: Mapping[str, Prepared], *, where: str) -> None:
    """With ``max_cost``, every endpoint needs a price.

    Raises:
        StudyError: an endpoint has none.
    """
    if spec.max_cost is None:
        return
    for name, system in systems.items():
        if system.remote and name not in spec.prices:
            raise StudyError(
                f"max_cost is set, and {name} answers through an endpoint whose price is not known",
                where=where,
                hint=f"add prices: {{{name}: {{input: …, output: …}}}} in US dollars for a million tokens",
            )


def grader_roles(spec: StudySpec) -> "dict[str, Model | list[Model]] | None":
    """Inspect's model role ``grader``, from the study's ``grader`` (one, or a panel)."""
    if not spec.grader:
        return None
    from inspect_ai.model import get_model

    models = [get_model(name) for name in spec.graders]
    return {"grader": models[0] if len(models) == 1 else models}
