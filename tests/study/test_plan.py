"""How many prompts fit, and what the plan says of it."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import StudyError
from trivet.study.evaluations import Evaluation
from trivet.study.plan import (
    RESERVED,
    SMALLEST_MAX_TOKENS,
    Choice,
    Plan,
    Speed,
    Step,
    answer_seconds,
    fit,
    full_choice,
    seconds_for,
)
from trivet.study.spec import EvaluationEntry, StudySpec
from trivet.study.steps import make_steps


def evaluation(name: str, n: int, components: int = 1) -> Evaluation:
    rows = tuple(
        {"id": f"{name}{i}", "category": "c", "component": str(i % components), "content": "x"}
        for i in range(n)
    )
    return Evaluation(EvaluationEntry(task=name), Path(), rows, "source", 1, False)


def spec(**changes: object) -> StudySpec:
    values = {"name": "s", "systems": {"a": "m", "b": "m"}, "evaluations": ["helpful", "harmless"]}
    return StudySpec.model_validate({**values, "max_tokens": 128, **changes})


def speed(seconds: float, tokens: float = 100.0) -> Speed:
    labels = ("helpful", "harmless")
    return Speed(
        tokens=dict.fromkeys(labels, tokens),
        seconds=dict.fromkeys(labels, seconds),
        scoring=dict.fromkeys(labels, seconds / 10),
        latency=seconds * 5,
    )


EVALUATIONS = [evaluation("helpful", 200, components=2), evaluation("harmless", 150)]


def test_everything_where_there_is_time():
    choice = fit(spec(), EVALUATIONS, {"a": speed(0.01), "b": speed(0.01)}, 60, latency_prompts=16)
    assert choice == Choice({"helpful": 200, "harmless": 150}, 128, ())


def test_limits_of_the_study_hold():
    evaluations = [EVALUATIONS[0], evaluation("harmless", 150)]
    assert full_choice(spec(limit=20), evaluations).prompts == {"helpful": 20, "harmless": 20}


def test_an_evaluation_of_two_parts_gets_twice_the_prompts_and_it_is_said():
    choice = fit(spec(), EVALUATIONS, {"a": speed(0.5), "b": speed(0.5)}, 5, latency_prompts=4)
    assert choice.prompts["helpful"] == 2 * choice.prompts["harmless"]
    assert f"helpful: {choice.prompts['helpful']} of 200 prompts" in choice.said[0]


def test_honest_gets_what_its_leg_needs_where_the_others_keep_a_few():
    evaluations = [evaluation("honest", 285, components=2), evaluation("harmless", 150)]
    study = spec(evaluations=["honest", "harmless"])
    slow = Speed({"honest": 20, "harmless": 60}, {"honest": 0.3, "harmless": 1.0}, {}, 1.0)
    choice = fit(study, evaluations, {"a": slow, "b": slow}, 4, latency_prompts=4)
    assert choice.prompts["honest"] == 160 and 10 <= choice.prompts["harmless"] < 80
    less = fit(study, evaluations, {"a": slow, "b": slow}, 0.5, latency_prompts=4)
    assert less.prompts["honest"] == 2 * less.prompts["harmless"] < 20


def test_shorter_answers_come_before_too_few_prompts():
    short = fit(spec(), EVALUATIONS, {"a": speed(1.0), "b": speed(1.0)}, 2.5, latency_prompts=0)
    assert SMALLEST_MAX_TOKENS <= short.max_tokens < 128
    assert any("instead of 128" in text for text in short.said)


def test_not_one_prompt_fits():
    with pytest.raises(StudyError, match="not one prompt"):
        fit(spec(), EVALUATIONS, {"a": speed(100), "b": speed(100)}, 0.5, latency_prompts=0)


@settings(max_examples=60)
@given(
    slow=st.floats(0.01, 3), slower=st.floats(0.01, 3), minutes=st.floats(2, 60), tokens=st.floats(10, 128)
)
def test_the_choice_fits_and_one_more_prompt_would_not(slow, slower, minutes, tokens):
    speeds = {"a": speed(slow, tokens), "b": speed(slower, tokens)}
    budget = minutes * 60 * (1 - RESERVED) - 4 * sum(s.latency for s in speeds.values())
    try:
        choice = fit(spec(), EVALUATIONS, speeds, minutes, latency_prompts=4)
    except StudyError:
        one = seconds_for(EVALUATIONS, {"helpful": 2, "harmless": 1}, speeds, SMALLEST_MAX_TOKENS, 128)
        assert one > budget - 8
        return
    assert seconds_for(EVALUATIONS, choice.prompts, speeds, choice.max_tokens, 128) <= budget
    more = {"helpful": choice.prompts["helpful"] + 2, "harmless": choice.prompts["harmless"] + 1}
    if choice.prompts["harmless"] < 150:
        reserve = max(0.0, 8 - RESERVED * minutes * 60)
        assert seconds_for(EVALUATIONS, more, speeds, choice.max_tokens, 128) > budget - reserve


def test_shorter_answers_take_proportionally_less_once_they_are_cut():
    assert answer_seconds(speed(2.0, tokens=100), "helpful", 50, 128) == pytest.approx(1.0)
    assert answer_seconds(speed(2.0, tokens=40), "helpful", 50, 128) == pytest.approx(2.0)
    assert answer_seconds(speed(2.0, tokens=100), "helpful", 256, 128) == pytest.approx(2.0)
    assert answer_seconds(Speed(), "helpful", 50, 128) is None


def test_a_plan_comes_back_from_json_and_its_steps_follow_one_another():
    speeds = {"a": speed(0.5), "b": speed(0.5)}
    choice = fit(spec(), EVALUATIONS, speeds, 5, latency_prompts=4)
    merge = Step("merge b", "merge", system="b", seconds=3.0, bytes_written=1000)
    steps = make_steps(
        spec(),
        ["a", "b"],
        EVALUATIONS,
        choice,
        speeds,
        memory={"a": 10, "b": None},
        latency_prompts=4,
        makers={"b": (merge,)},
    )
    assert steps[0] == merge
    assert all(("merge b" in step.after) == (step.system == "b") for step in steps if step.kind == "generate")
    plan = Plan("s", "k", 5.0, choice, steps, 4, speeds, {"helpful": 0.1}, ({"text": "x"},), ("note",))
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan
    seen: set[str] = set()
    for step in steps:
        assert set(step.after) <= seen
        seen.add(step.name)
    assert plan.seconds is not None and plan.seconds <= 5 * 60
