"""The gate: a high-confidence safety test of any system, as a check before its release.

HC-RLHF (arXiv 2506.08266), part B, for systems: one sampled answer to each held-out prompt, a cost in [0, 1]
for each, and an upper confidence bound of the mean. Within the limit the system passes; otherwise the outcome
is "no solution found". Everything that could be chosen after a look at the prompts is written to a ledger
before they are read, and prompts are looked at once (see ``trivet.data.safety_ledger``).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trivet.data.safety_ledger import Ledger, Look, ledger_lock, prompts_digest
from trivet.errors import ConfigError, DataError, StudyError
from trivet.judges import Judge
from trivet.judges.blind_sample import labels_and_population, sampled_systems
from trivet.judges.calibration import REFUSAL_EVENTS, calibrate
from trivet.judges.costs import CostMap, Costs, cost_map, costs_of, try_judge
from trivet.statistics.agreement import Confusion, confusion
from trivet.statistics.upper_bounds import BOUNDS
from trivet.study.circular import Measured, Steered, find_circles, grading_models
from trivet.study.gate_answers import (
    Answered,
    answer_prompts,
    asked_digests,
    distinct_digests,
    write_verdicts,
)
from trivet.study.gate_decision import Calibration, SafetyTest, decide
from trivet.study.gate_result import BoundName, Correction, GateResult, GateSettings
from trivet.study.gate_statement import required_lines
from trivet.study.judge_quality import judge_info
from trivet.systems import System
from trivet.systems.answers_file import Question, read_questions

WINDOW = 64
"""Prompts that are asked at once."""


def run_gate(
    system: System,
    judge: Judge,
    settings: GateSettings,
    *,
    say: Callable[[str], None],
    on_start: Callable[[int], None] = lambda total: None,
    on_answer: Callable[[int], None] = lambda done: None,
) -> GateResult:
    """Test a system, or go on with a test of it that was interrupted, or read out one that was finished.

    Args:
        system: opened by the test; answers as it always does, its own sampling and ``max_tokens`` included.
        judge: what the cost is made of.
        say: gets the lines that are due before the prompts are read.
        on_start: called with the number of prompts before they are answered.
        on_answer: called with how many more are answered.

    Raises:
        ConfigError: the settings do not fit the judge.
        StudyError: the prompts were looked at before, or the system itself uses this judge.
        TrivetError: the prompts, the model or the judge cannot be used; a test that was begun goes on when
            the same call is made again.
    """
    gate = _Gate(system, judge, settings)
    for line in required_lines(gate.test, gate.required):
        say(line)
    if not settings.prompts.is_file():
        raise DataError("no such file", where=str(settings.prompts))
    with ledger_lock(settings.folder):
        ledger = Ledger(settings.folder)
        declaration = ledger.declare(gate.declaration())
        say(f"limit and delta are written to {ledger.path}")
        questions = read_questions(settings.prompts)
        digests = distinct_digests(questions, str(settings.prompts))
        asked = asked_digests(questions)
        gate.refuse_circle(asked)
        look = ledger.admit(declaration, digests)
        if look is not None and look.result is not None:
            return GateResult.model_validate({**look.result, "replayed": True})
        gate.learn(digests, asked, earlier=len(ledger.looks) - (look is not None))
        if look is None and not gate.test.can_pass(len(digests)):
            return gate.hopeless()
        look = look or ledger.begin(declaration, digests)
        on_start(len(questions))
        return _test(gate, ledger, look, questions, on_answer)


def _test(
    gate: "_Gate", ledger: Ledger, look: Look, questions: list[Question], on_answer: Callable[[int], None]
) -> GateResult:
    """The look itself."""
    stem = f"{look.declaration}-{look.prompts[:16]}"
    folder = ledger.path.parent
    answered = answer_prompts(
        gate.system,
        questions,
        folder / f"answers-{stem}.jsonl",
        seed=gate.settings.seed,
        window=WINDOW,
        on_answer=on_answer,
    )
    costs = costs_of(gate.judge, gate.mapping, answered.chats)
    write_verdicts(folder / f"verdicts-{stem}.jsonl", questions, costs)
    result = gate.result(costs, answered)
    ledger.finish(look, result.to_json())
    return result


class _Gate:
    """A test that is planned: everything that is fixed before the prompts are read, and what it leads to."""

    def __init__(self, system: System, judge: Judge, settings: GateSettings) -> None:
        self.system, self.judge, self.settings = system, judge, settings
        self.mapping = cost_map(judge, settings.cost_labels, settings.cost_low, settings.cost_high)
        method: BoundName = settings.bound or ("clopper_pearson" if self.mapping.binary else "betting")
        if method == "clopper_pearson" and not self.mapping.binary:
            raise ConfigError(
                "the Clopper-Pearson bound needs a cost that is 0 or 1", where="gate", hint="take betting"
            )
        if system.spec.engine == "auto":
            raise ConfigError(
                "engine: auto would let this machine choose what is tested; a test names its engine",
                where=system.name,
                hint="write engine: torch or engine: llamacpp, or leave it out (torch)",
            )
        self.refuse_circle(frozenset())
        system.open()
        calibration = calibration_of(judge, self.mapping, settings, system.identity)
        self.test = SafetyTest(method, settings.limit, settings.delta / settings.split, calibration)
        try_judge(judge, self.mapping)
        self.required = self.test.required()
        self._digests: list[str] = []
        self._earlier = self._judge_knew = 0

    def declaration(self) -> dict[str, Any]:
        """What the ledger holds of it before the prompts are read; equal for the same test."""
        s, c = self.settings, self.test.calibration
        return {
            "limit": s.limit,
            "delta": s.delta,
            "split": s.split,
            "bound": self.test.bound,
            "cost": self.mapping._asdict() | {"labels": list(self.mapping.labels)},
            "judge": [self.judge.name, self.judge.identity],
            "calibration": None if c is None else [list(c.counts), c.clusters, c.population],
            "system": self.system.identity,
            "seed": s.seed,
        }

    def refuse_circle(self, prompts: frozenset[str]) -> None:
        """Raise where the judge chooses the system's answers, or the prompts trained the system or fitted a
        judge that chooses."""
        judges = self.system.judges
        steered = Steered(self.system.name, judges, grading_models(judges, ()), self.system.trained_on)
        measured = Measured("the gate", (self.judge,), prompts, grading_models((self.judge,), ()))
        for circle in find_circles([steered], [measured]):
            raise StudyError(
                f"circular: {circle.text}",
                where=self.system.name,
                hint="what selects or steers a system never measures it: take another judge"
                if circle.judge
                else "take prompts that neither the system was trained on nor its judge fitted",
            )

    def learn(self, digests: list[str], asked: frozenset[str], *, earlier: int) -> None:
        """The prompts are known now, and how many other tests the ledger holds."""
        self._digests, self._earlier = digests, earlier
        self._judge_knew = len(self.judge.training_prompts & asked)

    def hopeless(self) -> GateResult:
        """The result where no outcome could pass; nothing was answered."""
        return self._result(passed=False, looked=False)

    def result(self, costs: Costs, answered: Answered) -> GateResult:
        """The result of a look."""
        decision = decide(costs.values, self.test)
        return self._result(
            passed=decision.passed,
            looked=True,
            bound=decision.bound,
            mean_cost=decision.mean,
            seen_bound=decision.seen,
            reason=decision.reason,
            unscored=costs.unscored,
            labels=costs.labels,
            cut_answers=answered.cut,
        )

    def _result(self, *, passed: bool, **found: Any) -> GateResult:
        s, test = self.settings, self.test
        empty = {"bound": None, "mean_cost": None, "seen_bound": None, "reason": None}
        return GateResult(
            **{**empty, "unscored": {}, "labels": {}, "cut_answers": 0, **found},
            passed=passed,
            outcome="pass" if passed else "no solution found",
            limit=s.limit,
            delta=s.delta,
            split=s.split,
            test_delta=test.delta,
            method=test.bound,
            exact=BOUNDS[test.bound].exact,
            system=self.system.identity,
            judge=self.judge.name,
            judge_identity=self.judge.identity,
            cost=self.mapping.words(),
            binary=self.mapping.binary,
            n=len(self._digests),
            correction=self._correction(),
            judge_knew=self._judge_knew,
            no_harm_prompts=self.required.no_harm,
            half_limit_prompts=self.required.half_limit,
            earlier_tests=self._earlier,
            seed=s.seed,
            prompts=str(s.prompts),
            prompts_digest=prompts_digest(self._digests),
        )

    def _correction(self) -> Correction | None:
        c, errors = self.test.calibration, self.test.errors
        if c is None or errors is None:
            return None
        return Correction(
            sensitivity_low=errors.sensitivity_low,
            specificity_high=errors.specificity_high,
            delta=self.test.rate_delta,
            population=c.population,
            answers=c.counts.n,
            clusters=c.clusters,
            own_system=c.own_system,
        )


def calibration_of(
    judge: Judge, mapping: CostMap, settings: GateSettings, identity: str
) -> Calibration | None:
    """The judge's measured error on the event that costs: by people's labels where they are given, else by
    its own record; ``None`` where it has none, where the cost is not binary, or where no correction is
    wanted.

    Args:
        identity: of the system, ``name@hash12``.

    Raises:
        ConfigError: labels are given, and nothing that they could correct. JudgeError, DataError: as
            ``calibrate`` and ``labels_and_population``.
    """
    if settings.labels is not None:
        if settings.as_judged or not mapping.binary:
            raise ConfigError(
                "people's labels correct a binary cost for the judge's error"
                + ("; as-judged asks for no correction" if settings.as_judged else ""),
                where="labels",
                hint="leave them out, or name the labels that cost 1",
            )
        return _measured(judge, mapping, settings.labels, identity)
    if settings.as_judged or not mapping.binary:
        return None
    wanted = frozenset(mapping.labels)
    events = {members: name for name, members in REFUSAL_EVENTS.items()}
    name = events.get(wanted, mapping.labels[0] if len(wanted) == 1 else "")
    info = judge_info(judge.name, judge.quality)
    event = info.events.get(name)
    if event is None:
        return None
    counts = Confusion(event.true_positive, event.false_negative, event.true_negative, event.false_positive)
    clusters = int(judge.quality.get("clusters") or counts.n)
    return Calibration(counts, clusters, info.population or "an unnamed population")


def _measured(judge: Judge, mapping: CostMap, labels: Path, identity: str) -> Calibration:
    rows, population, _ = labels_and_population(str(labels))
    found = calibrate(judge, rows)
    harm = set(mapping.labels)
    counts = confusion([label in harm for label in found.labels], [label in harm for label in found.verdicts])
    own = sampled_systems(str(labels)) == {identity}
    return Calibration(counts, len(set(found.clusters)), population, own_system=own)
