"""Scored logs become measurements; what is no number is never a zero."""

from typing import Any

import pytest
from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec
from inspect_ai.scorer import Score

from trivet.errors import StudyError
from trivet.study.read_logs import read_measurements
from trivet.study.spec import EvaluationEntry


def log_of(*scores: Any) -> EvalLog:
    samples = [
        EvalSample(id=f"q{i}", epoch=1, input="?", target="", scores={"s": score})
        for i, score in enumerate(scores)
    ]
    spec = EvalSpec(
        created="2026-01-01T00:00:00", task="t", dataset=EvalDataset(), model="m", config=EvalConfig()
    )
    return EvalLog(eval=spec, samples=samples)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("C", 1.0),
        ("I", 0.0),
        ("P", 0.5),
        ("N", 0.0),
        ("yes", 1.0),
        ("False", 0.0),
        ("0.25", 0.25),
        (True, 1.0),
        (3, 3.0),
    ],
)
def test_scores_that_are_numbers_in_other_words(value, number):
    (row,) = read_measurements(log_of(Score(value=value)), system="a", entry=EvaluationEntry(task="p/t"))
    assert row.value == number and row.reason is None


@pytest.mark.parametrize("value", ["full_refusal", "R", "", "n/a", "nan", "inf", [1, 0]])
def test_a_score_that_is_no_number_is_not_scored_and_never_zero(value):
    (row,) = read_measurements(log_of(Score(value=value)), system="a", entry=EvaluationEntry(task="p/t"))
    assert row.value is None and row.reason


def test_text_of_a_scorer_is_named_without_its_control_sequences():
    log = log_of(Score(value="\x1b[31mred"))
    (row,) = read_measurements(log, system="a", entry=EvaluationEntry(task="p/t"))
    assert "no number" in row.reason and "\x1b" not in row.reason


def test_parts_need_a_name():
    log = log_of(Score(value={"length": 3, "vowels": 1}))
    with pytest.raises(StudyError, match="length, vowels"):
        read_measurements(log, system="a", entry=EvaluationEntry(task="p/t"))
    (row,) = read_measurements(log, system="a", entry=EvaluationEntry(task="p/t", score="vowels"))
    assert row.value == 1.0
