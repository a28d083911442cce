"""A judge scores an answer on one objective, and knows how good it is itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from trivet.models.operations import Chat


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score, or why there is none.

    ``value`` is the score in the judge's own unit, larger meaning more of its objective. ``None`` means "not
    scored" and then ``reason`` says why. ``label`` names the category where the judge has categories;
    ``probabilities`` are by label, where the judge gives them.
    """

    value: float | None
    label: str | None = None
    reason: str | None = None
    probabilities: Mapping[str, float] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError("a verdict without a value must say why")
        if self.value is not None and self.value != self.value:
            raise ValueError("a verdict's value is never NaN; use unscored(reason)")


def unscored(reason: str) -> Verdict:
    """A verdict that says why there is no score."""
    return Verdict(value=None, reason=reason)


@runtime_checkable
class Judge(Protocol):
    """Anything that scores an answer on one objective."""

    @property
    def name(self) -> str:
        """Its name, as in ``judge: NAME``."""
        ...

    @property
    def objective(self) -> str:
        """What a larger value means more of, e.g. ``"harmlessness"``."""
        ...

    @property
    def identity(self) -> str:
        """Hexadecimal digest of all that determines its verdicts."""
        ...

    @property
    def quality(self) -> dict[str, Any]:
        """Measured agreement with labels: population, n, sensitivity, specificity, kappa; may be empty."""
        ...

    @property
    def training_prompts(self) -> frozenset[str]:
        """SHA-256 of the normalised prompts of the rows it was fitted on, for the circularity check."""
        ...

    def score(self, chats: Sequence[Chat]) -> Sequence[Verdict]:
        """Score the last assistant message of each chat; never raises for one bad row."""
        ...


def parts_of(judge: Judge) -> tuple[Judge, ...]:
    """The judges that a judge is made of; itself where it is not made of others."""
    parts = getattr(judge, "parts", ())
    return tuple(inner for part in parts for inner in parts_of(part)) if parts else (judge,)
