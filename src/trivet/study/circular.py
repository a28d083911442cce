"""What selects, trains or steers a system never measures it: the circularity check of a plan.

Three uses are circular and refused: an evaluation is scored by a judge that a system uses (best-of-n, say) or
was trained by (as the reward of reinforcement learning, say); a row on which such a judge was fitted has a
prompt that the study asks; and a row that trained a system has one. Prompts are compared in normalised form.
Where the judge that scores and the judge that steers were fitted on some of the same rows, that is said in a
note: they are different judges, but not quite independent ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trivet.errors import StudyError
from trivet.judges import Judge
from trivet.judges.base import parts_of
from trivet.judges.grader import GraderJudge


@dataclass(frozen=True)
class Steered:
    """A system and the judges that select or steer its answers; ``graders`` are the models among them.

    ``trained_on`` are digests of the prompts that its weights learnt from in the study, ``trained_by`` the
    judges that they learnt to please.
    """

    name: str
    judges: tuple[Judge, ...]
    graders: frozenset[str] = frozenset()
    trained_on: frozenset[str] = frozenset()
    trained_by: tuple[Judge, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "judges", _apart(self.judges))
        object.__setattr__(self, "trained_by", _apart(self.trained_by))

    @property
    def all_judges(self) -> tuple[Judge, ...]:
        """Those that select its answers and those that trained it."""
        return (*self.judges, *self.trained_by)

    @property
    def rows(self) -> frozenset[str]:
        """Digests of the prompts of all rows that its judges were fitted on."""
        return frozenset[str]().union(*(judge.training_prompts for judge in self.all_judges))


@dataclass(frozen=True)
class Measured:
    """An evaluation, the judges that score it, and digests of the prompts that it asks.

    ``graders`` are the models that grade its answers.
    """

    name: str
    judges: tuple[Judge, ...]
    prompts: frozenset[str]
    graders: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "judges", _apart(self.judges))


def _apart(judges: Iterable[Judge]) -> tuple[Judge, ...]:
    """Judges that are made of others as those others: a part that steers is circular too."""
    return tuple(part for judge in judges for part in parts_of(judge))


@dataclass(frozen=True)
class Circle:
    """One circular use, in words. ``judge`` is ``None`` where it lies in the prompts."""

    system: str
    evaluation: str
    judge: str | None
    text: str


def find_circles(systems: Iterable[Steered], evaluations: Sequence[Measured]) -> list[Circle]:
    """Every circular use, by system and evaluation."""
    found: list[Circle] = []
    for system in systems:
        used = {judge.identity: "trained" for judge in system.trained_by}
        used |= {judge.identity: "selects the answers of" for judge in system.judges}
        for evaluation in evaluations:
            found += _judges(system, used, evaluation)
            learnt = len(system.trained_on & evaluation.prompts)
            if learnt:
                text = (
                    f"{learnt} of the prompts of {evaluation.name} are among those that trained {system.name}"
                )
                found.append(Circle(system.name, evaluation.name, None, text))
            shared = len(system.rows & evaluation.prompts)
            if shared:
                text = (
                    f"{shared} of the prompts of {evaluation.name} are among the rows on which "
                    f"{system.name}'s judge was fitted"
                )
                found.append(Circle(system.name, evaluation.name, None, text))
    return found


def _judges(system: Steered, used: dict[str, str], evaluation: Measured) -> Iterable[Circle]:
    for judge in evaluation.judges:
        if judge.identity in used:
            text = f"{evaluation.name} is scored by {judge.name}, which {used[judge.identity]} {system.name}"
            yield Circle(system.name, evaluation.name, judge.name, text)
            return
    for model in sorted(system.graders & evaluation.graders):
        text = f"{evaluation.name} is graded by {model}, which also steers {system.name}"
        yield Circle(system.name, evaluation.name, model, text)


def grading_models(judges: Iterable[Judge], bound: Sequence[str]) -> frozenset[str]:
    """Names of the models that grade, as Inspect names them; ``bound`` are those of its role ``grader``."""
    found: list[str] = []
    for judge in _apart(judges):
        if isinstance(judge, GraderJudge):
            model = judge.config.model
            found += bound if model is None else [model] if isinstance(model, str) else model
    return frozenset(name.removeprefix("inspect:") for name in found)


def shared_rows(systems: Iterable[Steered], evaluations: Sequence[Measured]) -> list[str]:
    """Notes on judges that score and were fitted on rows that also fitted a judge which steers a system."""
    found: dict[tuple[str, int, int], tuple[list[str], list[str]]] = {}
    for system in systems:
        used = {judge.identity for judge in system.all_judges}
        for evaluation in evaluations:
            for judge in evaluation.judges:
                shared = len(judge.training_prompts & system.rows)
                if shared and judge.identity not in used:
                    key = (judge.name, shared, len(judge.training_prompts))
                    scored, steered = found.setdefault(key, ([], []))
                    scored.append(evaluation.name)
                    steered.append(system.name)
    return [
        f"{shared} of the {total} prompts on which {name} was fitted, which scores {_words(scored)}, "
        f"also fitted the judge that steers {_words(steered)}"
        for (name, shared, total), (scored, steered) in found.items()
    ]


def _words(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def refuse_circles(circles: Sequence[Circle], *, allow: bool, where: str) -> None:
    """Raise for the first circular use, unless the study allows them.

    Raises:
        StudyError: names system, evaluation and judge.
    """
    if circles and not allow:
        more = f" (and {len(circles) - 1} more)" if len(circles) > 1 else ""
        raise StudyError(
            f"circular: {circles[0].text}{more}",
            where=where,
            hint="score with another judge, or set allow_circular: true, which marks each such number",
        )
