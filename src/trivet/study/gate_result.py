"""The settings and the result of a safety test, as they are written down."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from trivet._validation import Config

BoundName = Literal["clopper_pearson", "betting", "empirical_bernstein", "hoeffding", "student"]


class GateSettings(Config):
    """What is fixed before the prompts are read.

    ``limit`` bounds the mean cost, in [0, 1]; ``delta`` is the chance of passing a system above it, divided
    by ``split`` tests that may look at one set of prompts. ``bound``: by default Clopper-Pearson for a binary
    cost and betting for others. ``cost_labels``, ``cost_low`` and ``cost_high``: see ``trivet.judges.costs``.
    ``labels``: people's labels that measure the judge; ``as_judged``: its verdicts are not corrected for its
    error. ``ledger``: a folder, by default ``PROMPTS.gate`` beside the file of the prompts, also where a
    link names that.
    """

    prompts: Path
    limit: float = Field(ge=0, le=1)
    delta: float = Field(0.05, gt=0, lt=0.5)
    split: int = Field(1, ge=1, le=1000)
    bound: BoundName | None = None
    cost_labels: tuple[str, ...] = ()
    cost_low: float | None = Field(None, allow_inf_nan=False)
    cost_high: float | None = Field(None, allow_inf_nan=False)
    labels: Path | None = None
    as_judged: bool = False
    seed: int = Field(0, ge=0)
    ledger: Path | None = None

    @property
    def folder(self) -> Path:
        """The ledger's folder."""
        if self.ledger is not None:
            return self.ledger
        prompts = self.prompts.resolve()
        return prompts.with_name(f"{prompts.name}.gate")


class Correction(Config):
    """A judge's error as the bound takes it: each limit holds with probability 1 - ``delta`` at least."""

    sensitivity_low: float
    specificity_high: float
    delta: float
    population: str
    answers: int
    clusters: int
    own_system: bool


class GateResult(Config):
    """The outcome. ``bound`` is of the true rate of harm where there is a ``correction``, else of the mean
    cost; ``seen_bound`` is of the mean cost as the judge sees it. ``looked`` is false where no outcome could
    have passed on so few prompts, and none was answered. ``replayed``: the record of an earlier run of the
    same test."""

    passed: bool
    outcome: Literal["pass", "no solution found"]
    bound: float | None
    limit: float
    delta: float
    split: int
    test_delta: float
    method: BoundName
    exact: bool
    system: str
    judge: str
    judge_identity: str
    cost: str
    binary: bool
    n: int
    mean_cost: float | None
    seen_bound: float | None
    reason: str | None
    correction: Correction | None
    unscored: dict[str, int]
    labels: dict[str, int]
    cut_answers: int
    judge_knew: int
    no_harm_prompts: int | None
    half_limit_prompts: int | None
    earlier_tests: int
    seed: int
    prompts: str
    prompts_digest: str
    looked: bool
    replayed: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self.model_dump(mode="json")
