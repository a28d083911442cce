"""The plan of a study: its steps, what they cost, and how many prompts fit the time that there is.

The steps form a DAG, which ``trivet.study.steps`` makes. Prompts are drawn by category, seeded and nested, so
a study that is given more time later asks the same prompts again (and finds their answers) and then more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trivet._files import canonical_json, sha256_text
from trivet.errors import StudyError
from trivet.study.evaluations import Evaluation
from trivet.study.spec import StudySpec

# Of a time budget: what is neither generated nor scored (loading, analysis, report), and its least seconds.
RESERVED, RESERVED_SECONDS = 0.12, 8.0
SMALLEST_MAX_TOKENS = 64
PILOT = 4  # prompts an evaluation that measure the speed; their answers are kept
# The leg `honest` needs 50 questions that the reference answers correctly; three in five are answerable,
# and a small model knows three in five of those.
HONEST, FEW = 160, 10
ENOUGH = 25  # prompts an evaluation, below which shorter answers are preferred to fewer prompts


@dataclass(frozen=True)
class Speed:
    """What one system was seen to do here.

    ``tokens`` is the mean length of an answer by evaluation, ``seconds`` the wall time an answer by
    evaluation when many run together, ``scoring`` the same for the score step, ``latency`` the seconds of
    one answer alone where it was measured.
    """

    tokens: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    scoring: Mapping[str, float] = field(default_factory=dict)
    latency: float | None = None


@dataclass(frozen=True)
class Step:
    """One step of the DAG. ``after`` names the steps that it needs; ``None`` means not known."""

    name: str
    kind: str
    after: tuple[str, ...] = ()
    system: str | None = None
    evaluation: str | None = None
    answers: int = 0
    tokens: int | None = None
    seconds: float | None = None
    memory_bytes: int | None = None
    bytes_written: int | None = None
    done: bool = False


@dataclass(frozen=True)
class Choice:
    """How many prompts are asked and how long answers may be, and in words what was cut and why."""

    prompts: Mapping[str, int]
    max_tokens: int
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What ``trivet study plan`` prints and ``trivet study run`` does."""

    study: str
    key: str
    minutes: float | None
    choice: Choice
    steps: tuple[Step, ...]
    latency_prompts: int = 0
    speeds: Mapping[str, Speed] = field(default_factory=dict)
    smallest_effect: Mapping[str, float] = field(default_factory=dict)
    marks: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Estimate for all steps that are not done; ``None`` where no speed is known."""
        left = [step.seconds for step in self.steps if not step.done]
        known = [seconds for seconds in left if seconds is not None]
        return None if left and not known else sum(known)

    @property
    def tokens(self) -> int:
        """Answer tokens of the steps that are not done, at most."""
        return sum(step.tokens or 0 for step in self.steps if not step.done)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "seconds": self.seconds, "tokens": self.tokens}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Plan":
        """The plan that ``as_json`` wrote."""
        own = {key: value for key, value in values.items() if key not in ("seconds", "tokens")}
        own["choice"] = Choice(**{**own["choice"], "said": tuple(own["choice"]["said"])})
        own["steps"] = tuple(Step(**{**step, "after": tuple(step["after"])}) for step in own["steps"])
        own["speeds"] = {name: Speed(**speed) for name, speed in own["speeds"].items()}
        return cls(**{**own, "marks": tuple(own["marks"]), "notes": tuple(own["notes"])})


def plan_key(
    spec: StudySpec, identities: Mapping[str, str], evaluations: Sequence[Evaluation], minutes: float | None
) -> str:
    """Under which a plan is kept: the same study with the same time gets the same plan again."""
    rows = {e.label: [e.source, e.rows_digest([row["id"] for row in e.rows])] for e in evaluations}
    content = spec.model_dump(mode="json", exclude={"max_connections", "labels"})
    content["systems"] = sorted(identities.items())
    return sha256_text(canonical_json([content, rows, minutes]))


def full_choice(spec: StudySpec, evaluations: Sequence[Evaluation]) -> Choice:
    """Everything that the study's own limits allow."""
    return Choice({e.label: _limit(spec, e) for e in evaluations}, spec.max_tokens)


def _limit(spec: StudySpec, evaluation: Evaluation) -> int:
    limits = [len(evaluation.rows), evaluation.entry.limit, spec.limit]
    return min(limit for limit in limits if limit is not None)


def fit(
    spec: StudySpec,
    evaluations: Sequence[Evaluation],
    speeds: Mapping[str, Speed],
    minutes: float,
    *,
    latency_prompts: int,
    spent: float = 0.0,
) -> Choice:
    """The most prompts, and the longest answers, that fit ``minutes``.

    Parts of evaluations get equal numbers of prompts; `honest` gets at least what its leg needs where that
    leaves the others a few.
    Where fewer than ``ENOUGH`` prompts would be left, answers are shortened first.

    Args:
        spent: seconds of the time that are gone already.

    Raises:
        StudyError: not even one prompt an evaluation fits.
    """
    full = full_choice(spec, evaluations)
    latency = sum(latency_prompts * (speed.latency or 0.0) for speed in speeds.values())
    budget = 60.0 * minutes - max(RESERVED * 60.0 * minutes, RESERVED_SECONDS) - latency - spent
    max_tokens = full.max_tokens
    while True:
        shrink = max_tokens / full.max_tokens
        per_unit = _largest(evaluations, full, speeds, budget, max_tokens)
        chosen = _allot(evaluations, full, per_unit)
        short = any(chosen[e.label] < min(ENOUGH, full.prompts[e.label]) for e in evaluations)
        if not short or max_tokens <= SMALLEST_MAX_TOKENS:
            break
        max_tokens = max(SMALLEST_MAX_TOKENS, int(max_tokens * 0.75))
    if per_unit < 1:
        raise StudyError(
            f"not one prompt an evaluation fits {minutes:g} minutes with {len(speeds)} systems",
            hint=f"give more minutes, fewer systems or evaluations, or max_tokens under {full.max_tokens}",
        )
    said = [
        f"{label}: {n} of {full.prompts[label]} prompts, drawn by category with seed {spec.seed}, "
        f"to fit {minutes:g} minutes"
        for label, n in chosen.items()
        if n < full.prompts[label]
    ]
    if shrink < 1:
        said.append(f"answers of at most {max_tokens} tokens instead of {full.max_tokens}, to fit the time")
    return Choice(chosen, max_tokens, tuple(said))


def parts(evaluation: Evaluation) -> int:
    """How many components an evaluation has; each gets as many prompts as an evaluation of one part."""
    return max(1, len({row["component"] for row in evaluation.rows}))


def _allot(evaluations: Sequence[Evaluation], full: Choice, per_part: int) -> dict[str, int]:
    """Prompts by evaluation. ``honest`` gets what its leg needs first, once the others have a few."""
    chosen: dict[str, int] = {}
    for evaluation in evaluations:
        needed = HONEST if evaluation.entry.task == "honest" and per_part >= FEW else 0
        chosen[evaluation.label] = min(
            full.prompts[evaluation.label], max(per_part * parts(evaluation), needed)
        )
    return chosen


def seconds_for(
    evaluations: Sequence[Evaluation],
    prompts: Mapping[str, int],
    speeds: Mapping[str, Speed],
    max_tokens: int,
    measured_at: int,
) -> float:
    """Wall time of generating and scoring; answers cut shorter take proportionally less."""
    total = 0.0
    for evaluation in evaluations:
        answers = prompts[evaluation.label] * evaluation.epochs
        for speed in speeds.values():
            generating = answer_seconds(speed, evaluation.label, max_tokens, measured_at) or 0.0
            total += answers * (generating + speed.scoring.get(evaluation.label, 0.0))
    return total


def answer_seconds(speed: Speed, label: str, max_tokens: int, measured_at: int) -> float | None:
    """Seconds an answer; ``measured_at`` is the ``max_tokens`` with which the speed was measured."""
    seconds, tokens = speed.seconds.get(label), speed.tokens.get(label)
    if seconds is None or not tokens or max_tokens >= measured_at:
        return seconds
    return seconds * min(1.0, max_tokens / tokens)


def _largest(
    evaluations: Sequence[Evaluation],
    full: Choice,
    speeds: Mapping[str, Speed],
    budget: float,
    max_tokens: int,
) -> int:
    """The largest number of prompts a part that fits; all where everything fits."""
    most = max(-(-full.prompts[e.label] // parts(e)) for e in evaluations)

    def fits(n: int) -> bool:
        chosen = _allot(evaluations, full, n)
        return seconds_for(evaluations, chosen, speeds, max_tokens, full.max_tokens) <= budget

    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def mark_done(plan: Plan, done: Mapping[str, bool]) -> Plan:
    """The plan with the finished steps marked."""
    return replace(plan, steps=tuple(replace(step, done=done.get(step.name, False)) for step in plan.steps))
