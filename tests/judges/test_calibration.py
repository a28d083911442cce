"""Calibration: kappa against scikit-learn, known sensitivity and specificity recovered, errors by system."""

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from trivet.errors import DataError, JudgeError
from trivet.judges import Verdict, unscored
from trivet.judges.calibration import (
    LabelledAnswer,
    calibrate,
    compare,
    confusion_tables,
    errors_differ,
    kappas,
)
from trivet.models.operations import Chat
from trivet.statistics.rogan_gladen import corrected_rate
from trivet.study.judge_quality import event_of, judge_info

LABELS = ("full_refusal", "partial_refusal", "compliance")


class Scripted:
    """A judge that gives what the answer says: a label, a number, or nothing."""

    name, objective, identity = "scripted", "refusal", "0"
    quality: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, training_prompts: frozenset[str] = frozenset()) -> None:
        self.training_prompts = training_prompts

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        return [self._one(str(chat[-1]["content"])) for chat in chats]

    def _one(self, answer: str) -> Verdict:
        if answer == "?":
            return unscored("unreadable")
        try:
            return Verdict(float(answer))
        except ValueError:
            return Verdict(1.0, label=answer)


def simulated(n: int, seed: int, prevalence: float, se: float, sp: float) -> tuple[list[str], list[str]]:
    """Labels, and verdicts of a judge with sensitivity ``se`` and specificity ``sp`` for compliance."""
    generator = np.random.default_rng(seed)
    truth = generator.random(n) < prevalence
    said = np.where(truth, generator.random(n) < se, generator.random(n) >= sp)
    names = np.array(["full_refusal", "compliance"])
    return names[truth.astype(int)].tolist(), names[said.astype(int)].tolist()


def test_kappa_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    labels = generator.choice(LABELS, 300).tolist()
    verdicts = [a if generator.random() < 0.7 else str(generator.choice(LABELS)) for a in labels]
    clusters = [str(n // 3) for n in range(300)]
    found = compare("j", labels, verdicts, systems=["m"] * 300, clusters=clusters)
    assert found.kappa.value == pytest.approx(cohen_kappa_score(labels, verdicts), abs=1e-12)
    tables = confusion_tables(labels, verdicts, clusters)
    assert kappas(np.ones((1, 100)), tables)[0] == pytest.approx(found.kappa.value, abs=1e-12)
    assert found.kappa.clusters == 100


def test_known_sensitivity_and_specificity_are_recovered_and_correct_a_rate() -> None:
    labels, verdicts = simulated(4000, 2, prevalence=0.5, se=0.9, sp=0.8)
    found = compare("j", labels, verdicts, systems=["m"] * 4000, clusters=[str(n) for n in range(4000)])
    event = found.events["compliance"]
    for estimate, true in ((event.sensitivity(), 0.9), (event.specificity(), 0.8)):
        assert estimate.interval is not None and estimate.interval.low < true < estimate.interval.high
    # 10% true prevalence is seen as 0.1 * 0.9 + 0.9 * 0.2 = 27%.
    corrected = corrected_rate(0.27, 1000, event)
    assert corrected.value == pytest.approx(0.1, abs=0.03)


def test_intervals_of_sensitivity_cover_it() -> None:
    covered = 0
    for seed in range(200):
        labels, verdicts = simulated(200, seed, prevalence=0.5, se=0.85, sp=0.9)
        found = compare("j", labels, verdicts, systems=["m"] * 200, clusters=[str(n) for n in range(200)])
        interval = found.events["compliance"].sensitivity().interval
        assert interval is not None
        covered += interval.low <= 0.85 <= interval.high
    assert 180 <= covered <= 199


def test_quality_is_read_by_studies() -> None:
    labels, verdicts = simulated(300, 3, prevalence=0.4, se=0.9, sp=0.9)
    quality = compare("j", labels, verdicts, systems=["m"] * 300, clusters=labels).quality(
        "simulated answers"
    )
    info = judge_info("j", quality)
    assert info.population == "simulated answers" and info.n == 300
    event = event_of(info, "harmless")
    assert event is not None and event.n == 300


def test_a_judge_that_errs_more_on_one_system_is_found() -> None:
    first = simulated(300, 4, 0.5, 0.95, 0.95)
    second = simulated(300, 5, 0.5, 0.6, 0.95)
    labels, verdicts = first[0] + second[0], first[1] + second[1]
    found = compare("j", labels, verdicts, systems=["a"] * 300 + ["b"] * 300, clusters=[""] * 600)
    assert found.systems_p is not None and found.systems_p < 0.01
    assert found.errors["b"][0] > found.errors["a"][0]


def test_errors_that_swap_sides_are_found_though_their_sum_is_equal() -> None:
    # 20 of 100 wrong on both, but on one system all at "compliance", on the other all at "full_refusal".
    labels = (["compliance"] * 50 + ["full_refusal"] * 50) * 2
    wrong = np.array([True] * 20 + [False] * 30 + [False] * 50 + [False] * 50 + [True] * 20 + [False] * 30)
    systems = ["a"] * 100 + ["b"] * 100
    assert errors_differ(wrong, systems, labels, np.random.default_rng(0)) < 0.01


def test_the_permutation_test_keeps_its_level() -> None:
    rejected = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        wrong = generator.random(120) < 0.2
        systems = generator.choice(["a", "b", "c"], 120).tolist()
        labels = generator.choice(LABELS, 120).tolist()
        rejected += errors_differ(wrong, systems, labels, generator, permutations=200) <= 0.05
    assert rejected <= 20  # 10 expected


def test_what_cannot_be_scored_is_counted_and_not_compared() -> None:
    rows = [
        LabelledAnswer(f"p{n}", a, "compliance", "m", str(n)) for n, a in enumerate(["compliance", "?", "?"])
    ]
    found = calibrate(Scripted(), rows)
    assert found.unscored == {"unreadable": 2} and len(found.labels) == 1
    with pytest.raises(JudgeError, match="none of the answers"):
        calibrate(Scripted(), rows[1:])
    with pytest.raises(DataError):
        calibrate(Scripted(), [])


def test_prompts_of_the_fit_are_left_out() -> None:
    from trivet.data.prompts import prompt_digest

    rows = [LabelledAnswer(f"prompt {n}", "compliance", "compliance", "m", str(n)) for n in range(4)]
    judge = Scripted(frozenset({prompt_digest("Prompt 0!"), prompt_digest("prompt 3")}))
    found = calibrate(judge, rows)
    assert found.fitted_on == 2 and len(found.labels) == 2
    with pytest.raises(JudgeError, match="fitted on the prompts of all"):
        calibrate(judge, [rows[0], rows[3]])


def test_a_judge_of_values_needs_a_threshold() -> None:
    rows = [
        LabelledAnswer("p", "0.9", "harmless", "m", "1"),
        LabelledAnswer("q", "-2", "harmful", "m", "2"),
        LabelledAnswer("r", "0.1", "harmful", "m", "3"),
    ]
    with pytest.raises(JudgeError, match="no labels"):
        calibrate(Scripted(), rows)
    with pytest.raises(JudgeError, match="positive"):
        calibrate(Scripted(), rows, threshold=0.5)
    found = calibrate(Scripted(), rows, threshold=0.0, positive="harmless")
    counts = found.events["harmless"]
    assert (counts.true_positive, counts.false_positive, counts.true_negative) == (1, 1, 1)
