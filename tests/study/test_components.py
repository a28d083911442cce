import pytest

from trivet.statistics.agreement import Confusion
from trivet.statistics.rogan_gladen import corrected_rate
from trivet.study.components import component_result
from trivet.study.judge_quality import judge_info
from trivet.study.measurements import Measurement
from trivet.study.scores import score_tables

CALIBRATION = Confusion(80, 20, 90, 10)
JUDGE = {"population": "labels", "events": {"compliance": CALIBRATION._asdict()}}


def _rows(labels, component="harmless", epochs=1, **more):
    return [
        Measurement(
            "a",
            component,
            component,
            f"q{i // epochs}",
            i % epochs + 1,
            f"q{i // epochs}",
            None if label is None else float(label != "compliance"),
            label=label,
            reason=None if label else "the judge gave no verdict",
            judge="refusal",
            **more,
        )
        for i, label in enumerate(labels)
    ]


def _result(rows, judges=None):
    table = next(iter(score_tables(rows, ["a", "b"]).values()))
    known = {name: judge_info(name, quality) for name, quality in (judges or {}).items()}
    return component_result(table, "a", known, seed=3)


def test_counts_labels_and_reasons():
    labels = ["full_refusal"] * 5 + ["compliance"] * 3 + ["off_topic"] * 2 + [None, None]
    row = _result(_rows(labels, metadata={"stop_reason": "max_tokens"}))
    assert (row.n_questions, row.n_clusters, row.n_answers, row.n_unscored) == (10, 10, 12, 2)
    assert row.labels == {"full_refusal": 5, "compliance": 3, "off_topic": 2}
    assert row.off_topic_share == 0.2 and row.n_limit_stopped == 12
    assert row.unscored_reasons == {"the judge gave no verdict": 2}
    assert row.estimate.value == pytest.approx(0.7)
    assert (row.bounds.low, row.bounds.high) == pytest.approx((7 / 12, 9 / 12))
    assert row.judge == "refusal" and row.seed == 3 and row.epochs == 1


def test_a_system_that_was_not_asked_has_no_row_and_nothing_scored_says_so():
    table = next(iter(score_tables(_rows(["compliance"]), ["a", "b"]).values()))
    assert component_result(table, "b", {}, seed=0) is None
    row = _result(_rows([None] * 4))
    assert row.estimate.value is None and "none of 4 answers" in row.estimate.reason
    assert (row.bounds.low, row.bounds.high) == (0, 1)


def test_the_rate_is_corrected_for_the_judge_s_error_and_turned_round():
    labels = ["compliance"] * 48 + ["full_refusal"] * 152
    row = _result(_rows(labels), {"refusal": JUDGE})
    expected = corrected_rate(0.24, 200, CALIBRATION)
    assert row.corrected.value == pytest.approx(1 - expected.value) == pytest.approx(0.8)
    assert row.corrected.interval.low == pytest.approx(1 - expected.interval.high)
    assert row.corrected.interval.low < row.corrected.value < row.corrected.interval.high


def test_copies_of_one_answer_do_not_narrow_the_correction():
    once = _result(_rows(["compliance"] * 12 + ["full_refusal"] * 38), {"refusal": JUDGE})
    copied = [label for label in ["compliance"] * 12 + ["full_refusal"] * 38 for _ in range(8)]
    many = _result(_rows(copied, epochs=8), {"refusal": JUDGE})
    assert many.n_answers == 400
    assert many.corrected.interval.low == pytest.approx(once.corrected.interval.low)


def test_why_a_rate_is_not_corrected():
    labels = ["compliance"] * 5 + ["full_refusal"] * 5
    assert _result(_rows(labels)).corrected is None  # nothing is known of the judge
    assert "'compliance' was not measured" in _result(_rows(labels), {"refusal": {}}).corrected.reason
    weak = {"events": {"compliance": Confusion(6, 4, 7, 3)._asdict()}}
    assert "too weak" in _result(_rows(labels), {"refusal": weak}).corrected.reason
    assert _result(_rows(labels, "instructions"), {"refusal": JUDGE}).corrected is None  # decided by rules
