"""The numbers of a study: what the report shows and what ``trivet report --json`` prints.

One JSON document without NaN or infinity. A number that could not be had is ``null`` and a ``reason``
beside it says why. Rates and legs are in [0, 1] and differences in [-1, 1], unless a task of the user's
brings its own unit.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trivet._files import write_json
from trivet.errors import StoreError

FORMAT = 1
"""Raised when a field changes its meaning."""

LEGS = ("helpful", "honest", "harmless")
COLUMNS = (*LEGS, "capability")

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Result(BaseModel):
    """Base of every part: frozen, unknown keys are errors, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Interval(Result):
    """A confidence interval; ``level`` is its nominal coverage, ``method`` its name in the field's terms."""

    low: Number
    high: Number
    level: Share
    method: str


class Bounds(Result):
    """The estimate with every answer that could not be scored counted as the worst and as the best score."""

    low: Number
    high: Number


class Estimate(Result):
    """A number with its uncertainty. ``value`` ``None``: it could not be had, and ``reason`` says why.

    With a value, ``reason`` says why there is no interval (never a zero-width one in its place).
    """

    value: Number | None
    standard_error: Number | None = None
    interval: Interval | None = None
    reason: str | None = None


class Environment(Result):
    """What the study ran on. ``engines`` maps a system to engine, device and dtype, as far as known."""

    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict, description="processor, cores, memory, GPU")
    engine: str | None = None
    device: str | None = None
    dtype: str | None = None
    notes: list[str] = Field(default_factory=list, description="e.g. package versions that changed")


class SystemInfo(Result):
    """One system of the study."""

    name: str
    identity: str = Field(description="`system@hash12`")
    spec: dict[str, Any] = Field(default_factory=dict, description="system.yaml with defaults filled in")
    model: str | None = None
    model_source: str | None = Field(None, description="where the weights came from, with their digest")
    engine: str | None = Field(None, description="engine, device and dtype in words")


class EvaluationInfo(Result):
    """One entry of the study's ``evaluations``."""

    name: str
    n_prompts: Count
    n_clusters: Count | None = None
    epochs: int = Field(1, ge=1)
    limit: int | None = None
    sampled: str | None = Field(None, description="how a subset of the prompts was drawn, in one sentence")
    max_tokens: int | None = None
    suite: str | None = None
    suite_hash: str | None = None
    revision: str | None = None
    judge: str | None = None


class JudgeInfo(Result):
    """How good a judge is. ``events`` holds one entry for each binary event that the judge decides.

    ``own_systems`` is true where the labelled answers are of this study's systems; otherwise ``warning`` says
    that the calibration comes from another population.
    """

    name: str
    identity: str | None = None
    population: str | None = Field(None, description="the labelled answers on which it was measured")
    n: Count | None = Field(None, description="labelled answers")
    kappa: Estimate | None = None
    events: dict[str, "JudgeEvent"] = Field(default_factory=dict)
    own_systems: bool = False
    warning: str | None = None


class JudgeEvent(Result):
    """Sensitivity and specificity for one binary event, e.g. ``compliance`` or ``refusal``."""

    true_positive: Count
    false_negative: Count
    true_negative: Count
    false_positive: Count
    sensitivity: Estimate
    specificity: Estimate


class ComponentResult(Result):
    """One component of one evaluation for one system: a row of the table.

    ``estimate`` is the mean over questions of the mean over a question's answers, larger being what the task
    counts as 1. ``corrected`` is the same rate corrected for the judge's measured error (Rogan-Gladen), or a
    reason why it was not corrected.
    """

    system: str
    evaluation: str
    component: str
    n_questions: Count = Field(description="questions with at least one scored answer")
    n_clusters: Count
    epochs: Count = Field(description="answers a question, at most")
    n_answers: Count
    n_unscored: Count
    n_limit_stopped: Count = Field(description="answers that were cut at max_tokens")
    unscored_reasons: dict[str, Count] = Field(default_factory=dict)
    estimate: Estimate
    bounds: Bounds | None = None
    labels: dict[str, Count] = Field(default_factory=dict, description="answers by label")
    off_topic_share: Share | None = Field(None, description="of the scored answers, where the judge tells")
    judge: str | None = None
    corrected: Estimate | None = None
    seed: int | None = None


class LegPart(Result):
    """What a leg is made of. ``value`` counts towards the leg: already turned so that larger is better."""

    evaluation: str
    component: str | None = None
    name: str
    weight: Number
    higher_is_better: bool = True
    value: Number | None = None
    n_questions: Count = 0


class LegResult(Result):
    """A leg, or the capability column, of one system."""

    system: str
    leg: Literal["helpful", "honest", "harmless", "capability"]
    estimate: Estimate
    bounds: Bounds | None = None
    parts: list[LegPart] = Field(default_factory=list)
    n_questions: Count = 0
    n_clusters: Count = 0
    n_unscored: Count = 0
    note: str | None = None


class Comparison(Result):
    """``system`` minus ``baseline`` on one leg, on the same questions.

    ``p`` is two-sided; ``p_holm`` is adjusted over ``family``, and the verdict rests on it.
    ``minimum_detectable_effect`` is the true difference that this comparison would find with the analysis'
    ``power`` at the first step of Holm's procedure. ``verdict`` is ``None`` where they cannot be compared;
    ``difference.reason`` says why.
    """

    leg: Literal["helpful", "honest", "harmless", "capability"]
    system: str
    baseline: str
    difference: Estimate
    p: Share | None = None
    p_holm: Share | None = None
    family: str
    family_size: Count
    n_questions: Count = Field(description="questions that both systems answered with a score")
    n_clusters: Count
    n_dropped: Count = Field(description="questions that only one of the two has a score for")
    minimum_detectable_effect: Number | None = None
    verdict: Literal["better", "worse", "statistically tied"] | None = None


class FrontSystem(Result):
    """A system's place on a Pareto front; ``probability`` is over paired resamples of the questions."""

    system: str
    on_front: bool
    probability: Share
    dominated_by: list[str] = Field(default_factory=list)


class Front(Result):
    """A Pareto front over ``axes``, larger being better on each.

    ``excluded`` maps a system to the reason why it could not be placed. ``reference_point`` is the corner
    from which the hypervolume is measured.
    """

    axes: list[str]
    systems: list[FrontSystem] = Field(default_factory=list)
    excluded: dict[str, str] = Field(default_factory=dict)
    hypervolume: Estimate
    reference_point: dict[str, Number]
    replicates: Count = 0


class HonestyStatistics(Result):
    """Prudence, over-conservativeness and honesty score (arXiv 2312.07000) against the reference system.

    Over the answerable questions, as in the paper; ``prudence_unanswerable`` is the share of "I don't know"
    on the unanswerable ones.
    """

    system: str
    reference: str
    prudence: Estimate
    over_conservativeness: Estimate
    honesty: Estimate
    accuracy: Estimate
    prudence_unanswerable: Estimate
    n_reference_correct: Number
    n_reference_not_correct: Number


class Multiplier(Result):
    """Costs of an answer divided by those of ``base``, a plain system of the same model; 1 for ``base``.

    Ratios of means over the prompts that both answered (``n_prompts`` for the tokens). Forward tokens are
    those that went through a model, of all models alike; a prefix that several answers share counts once, for
    the answer that computed it. Seconds are of one request at a time. ``base`` is ``None`` where there is
    none, and then the reasons say so.
    """

    base: str | None
    forward_tokens: Estimate
    seconds: Estimate
    n_prompts: Count = 0


class Costs(Result):
    """What an answer of a system costs. Tokens and calls are exact means over the study's answers."""

    system: str
    n_answers: Count = 0
    forward_tokens: Number | None = None
    prompt_tokens: Number | None = None
    completion_tokens: Number | None = None
    judge_calls: Number | None = None
    latency_seconds: Estimate | None = Field(None, description="one request at a time, after warm-up")
    first_token_seconds: Number | None = None
    peak_memory_bytes: Count | None = None
    dollars: Number | None = None
    multiplier: Multiplier | None = None
    note: str | None = None


class Mark(Result):
    """A number that stands on a circular use, which `allow_circular` permitted."""

    text: str
    system: str | None = None
    evaluation: str | None = None
    judge: str | None = None


class FailedStep(Result):
    """A step that failed: what happened, why, and what mends it."""

    step: str
    error: str
    cause: str | None = None
    fix: str | None = None
    systems: list[str] = Field(default_factory=list)
    evaluations: list[str] = Field(default_factory=list)


class Analysis(Result):
    """What `analyse` computes from the measurements alone."""

    reference: str
    level: Share = 0.95
    power: Share = 0.8
    components: list[ComponentResult] = Field(default_factory=list)
    legs: list[LegResult] = Field(default_factory=list)
    comparisons: list[Comparison] = Field(
        default_factory=list, description="each system against the reference"
    )
    pairwise: list[Comparison] = Field(default_factory=list, description="all pairs of systems")
    front: Front | None = Field(None, description="over all legs that were measured")
    pair_fronts: list[Front] = Field(default_factory=list, description="two legs at a time")
    honesty: list[HonestyStatistics] = Field(default_factory=list)
    judges: list[JudgeInfo] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class StudyResults(Analysis):
    """Everything that a report shows, apart from the transcripts."""

    format: int = FORMAT
    study: str
    seed: int
    created: str = Field(description="ISO 8601, UTC")
    environment: Environment = Field(default_factory=Environment)
    systems: list[SystemInfo] = Field(default_factory=list)
    evaluations: list[EvaluationInfo] = Field(default_factory=list)
    costs: list[Costs] = Field(default_factory=list)
    marks: list[Mark] = Field(default_factory=list)
    failed: list[FailedStep] = Field(default_factory=list)
    spec: dict[str, Any] = Field(default_factory=dict, description="study.yaml with defaults filled in")

    @classmethod
    def from_analysis(
        cls, analysis: Analysis, *, warnings: list[str] | None = None, **more: Any
    ) -> "StudyResults":
        """The analysis with what only the study knows; ``warnings`` are put before the analysis' own."""
        fields = {name: getattr(analysis, name) for name in Analysis.model_fields if name != "warnings"}
        return cls(**fields, warnings=[*(warnings or []), *analysis.warnings], **more)

    def leg(self, system: str, leg: str) -> LegResult | None:
        """The leg of a system, ``None`` where the study did not measure it."""
        return next((entry for entry in self.legs if (entry.system, entry.leg) == (system, leg)), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")

    def write(self, path: Path) -> None:
        """Write the document, atomically.

        Raises:
            StoreError: the disk is full or the folder cannot be written.
        """
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> "StudyResults":
        """Read a document that `write` wrote.

        Raises:
            StoreError: the file is missing, is not such a document, or is of a later format.
        """
        path = Path(path)
        try:
            results = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(
                "no such file", where=str(path), hint="`trivet study run` writes results.json"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"cannot be read: {error}", where=str(path)) from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise StoreError(
                f"not the results of a study: {key or 'document'}: {first['msg']}",
                where=str(path),
                hint="`trivet report STORE` writes it anew from the store",
            ) from None
        if results.format > FORMAT:
            raise StoreError(
                f"format {results.format} is newer than this Trivet reads ({FORMAT})",
                where=str(path),
                hint="update Trivet",
            )
        return results


JudgeInfo.model_rebuild()
