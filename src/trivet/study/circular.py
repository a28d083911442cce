"""What selects, trains or steers a system never measures it: the circularity check of a plan.

Three uses are circular: an evaluation is scored by a judge that a system uses (best-of-n, say); a judge that
scores was fitted on rows that also fitted a system or a judge that steers it; and such rows have a prompt
that the study asks. Prompts are compared in normalised form.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trivet.errors import StudyError
from trivet.judges import Judge


@dataclass(frozen=True)
class Steered:
    """A system and the judges that select or steer its answers."""

    name: str
    judges: tuple[Judge, ...]

    @property
    def rows(self) -> frozenset[str]:
        """Digests of the prompts of all rows that its judges were fitted on."""
        return frozenset[str]().union(*(judge.training_prompts for judge in self.judges))


@dataclass(frozen=True)
class Measured:
    """An evaluation, the judges that score it, and digests of the prompts that it asks."""

    name: str
    judges: tuple[Judge, ...]
    prompts: frozenset[str]


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
        used = {judge.identity: judge.name for judge in system.judges}
        for evaluation in evaluations:
            found += _judges(system, used, evaluation)
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
            text = f"{evaluation.name} is scored by {judge.name}, which selects the answers of {system.name}"
        elif shared := len(judge.training_prompts & system.rows):
            text = (
                f"{evaluation.name} is scored by {judge.name}, and {shared} of the rows on which that was "
                f"fitted also fitted the judge of {system.name}"
            )
        else:
            continue
        yield Circle(system.name, evaluation.name, judge.name, text)


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
