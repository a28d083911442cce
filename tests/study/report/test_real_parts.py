"""The report of what the real analysis and real logs give."""

import json
import re

import numpy as np
import pytest
from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
)

from trivet.study.analysis import analyse
from trivet.study.measurements import Measurement
from trivet.study.report import render, transcripts_of
from trivet.study.results import Mark, StudyResults

PARTS = (
    ("helpful", "instructions", None),
    ("helpful", "questions", None),
    ("over_refusal", "over_refusal", ("full_refusal", "compliance")),
    ("honest", "answerable", ("wrong", "correct")),
    ("honest", "unanswerable", ("wrong", "idk")),
    ("harmless", "harmless", ("compliance", "full_refusal")),
    ("capability", "capability", None),
)


@pytest.fixture(scope="module")
def study() -> StudyResults:
    """Two systems, 80 questions a part, the second one far more harmless; some answers unscored."""
    random = np.random.default_rng(4)
    measurements = []
    for evaluation, component, labels in PARTS:
        for question in range(80):
            for system in ("base", "careful"):
                chance = 0.9 if system == "careful" and evaluation == "harmless" else 0.7
                chance = 0.4 if system == "base" and evaluation == "harmless" else chance
                value: float | None = float(random.random() < chance)
                label = labels[int(value)] if labels else None
                if evaluation == "harmless" and question < 3:
                    value, label = None, None
                measurements.append(
                    Measurement(
                        system=system,
                        evaluation=evaluation,
                        component=component,
                        sample_id=f"{component}-{question}",
                        epoch=1,
                        cluster=f"{component}-{question}",
                        value=value,
                        label=label,
                        reason="the judge gave no verdict" if value is None else None,
                        judge="refusal" if component in {"harmless", "over_refusal"} else None,
                    )
                )
    analysis = analyse(measurements, reference="base", seed=1)
    marks = [Mark(text="careful was chosen by its judge", system="careful", evaluation="harmless")]
    return StudyResults.from_analysis(
        analysis, study="simulated", seed=1, created="2026-01-31T12:00:00+00:00", marks=marks
    )


def test_the_analysis_and_the_page_show_the_same_numbers(study):
    html = render(study)
    for leg in study.legs:
        assert leg.estimate.value is not None
        assert f">{100 * leg.estimate.value:.1f}<" in html
    for row in study.comparisons:
        assert row.p_holm is not None
        assert ("&lt; 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}") in html
    assert study.leg("careful", "harmless").estimate.value > study.leg("base", "harmless").estimate.value
    legs = re.search(r'<section id="legs">.*?</section>', html, re.DOTALL)[0]
    careful = next(row for row in re.findall(r"<tr>.*?</tr>", legs, re.DOTALL) if "careful" in row)
    assert "▲ better" in careful and "circular use" in careful and "3 unscored" in careful
    assert html.count('class="chart"') == 4, "all legs, and three pairs"


def sample(output: ModelOutput, **changes: object) -> EvalSample:
    return EvalSample(**{"id": 7, "epoch": 1, "input": "Why?", "target": "", "output": output, **changes})


def test_answers_are_read_from_a_log():
    message = ChatMessageAssistant(
        content=[ContentReasoning(reasoning="think"), ContentText(text="Because.")]
    )
    output = ModelOutput(
        model="m",
        choices=[ChatCompletionChoice(message=message, stop_reason="max_tokens")],
        usage=ModelUsage(output_tokens=5),
    )
    chat = [ChatMessageSystem(content="Be brief."), ChatMessageUser(content="Why\u202e?")]
    log = EvalLog(
        eval=EvalSpec(
            created="2026-01-31T12:00:00+00:00",
            task="t",
            dataset=EvalDataset(),
            model="m",
            config=EvalConfig(),
        ),
        samples=[
            sample(output),
            sample(output, epoch=2, input=chat, choices=["yes", "no"]),
            sample(ModelOutput(), id="unmeasured"),
        ],
    )
    measurements = [
        Measurement(
            system="s",
            evaluation="e",
            component="c",
            sample_id="7",
            epoch=epoch,
            cluster="7",
            value=None,
            reason="r",
        )
        for epoch in (1, 2)
    ]
    first, second = transcripts_of(log, measurements)
    assert (first.prompt, first.answer, first.reasoning) == ("Why?", "Because.", "think")
    assert (first.tokens, first.stop_reason, first.reason) == (5, "max_tokens", "r")
    assert second.prompt == "system: Be brief.\n\nuser: Why\u202e?\nA) yes\nB) no"
    page = render(_empty(), [first, second])
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert data["groups"][0]["answers"][0][2] == "Because."


def _empty() -> StudyResults:
    return StudyResults(reference="s", study="s", seed=0, created="2026-01-31T12:00:00+00:00")
