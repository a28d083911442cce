import pytest

from trivet.errors import JudgeError
from trivet.statistics.agreement import Confusion, cohen_kappa
from trivet.study.judge_quality import event_of, judge_info

COUNTS = {"true_positive": 80, "false_negative": 20, "true_negative": 90, "false_positive": 10}


def test_a_full_quality_becomes_typed_with_intervals():
    kappa = {"value": 0.7, "low": 0.6, "high": 0.8}
    quality = {"population": "labels", "n": 200, "kappa": kappa, "events": {"compliance": COUNTS}}
    info = judge_info("refusal", quality)
    assert info.kappa.interval.low == 0.6 and info.n == 200
    event = info.events["compliance"]
    assert event.sensitivity.value == 0.8 and event.specificity.interval.high < 1
    assert event_of(info, "harmless") == Confusion(80, 20, 90, 10)
    assert event_of(info, "over_refusal") is None and event_of(info, "instructions") is None
    assert "measured on labels, not on answers of these systems" in info.warning


def test_labels_of_this_study_need_no_warning():
    assert judge_info("j", {"population": "this study", "own_systems": True}).warning is None


def test_a_judge_that_was_never_measured_says_so():
    assert "not measured against labels" in judge_info("j", {}).warning


def test_kappa_may_be_a_number_or_undefined():
    assert judge_info("j", {"kappa": 0.5}).kappa.value == 0.5
    undefined = cohen_kappa([1], [1])
    assert judge_info("j", {"kappa": {"value": undefined.value, "low": None}}).kappa.value is None


@pytest.mark.parametrize(
    "quality",
    [
        {"events": {"compliance": {"true_positive": 1}}},
        {"events": {"compliance": {**COUNTS, "true_positive": -1}}},
        {"events": {"compliance": 3}},
        {"n": "many"},
    ],
)
def test_a_malformed_quality_names_the_judge(quality):
    with pytest.raises(JudgeError, match="quality of the judge j"):
        judge_info("j", quality)
