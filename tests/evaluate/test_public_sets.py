"""Public sets stand wherever a suite of their kind does."""

import json

import pytest

from trivet.errors import DataError
from trivet.evaluate.capability import capability
from trivet.evaluate.harmless import harmless
from trivet.evaluate.helpful import helpful
from trivet.evaluate.over_refusal import over_refusal


def test_real_public_sets_become_tasks(real_data):
    harmful = harmless(dataset=f"harmbench:{real_data / 'harmbench'}")
    assert len(harmful.dataset) == 239
    safe = over_refusal(dataset=f"xstest:{real_data / 'xstest'}", prompts=10)
    assert [sample.id.startswith("xstest-") for sample in safe.dataset] == [True] * 10
    choice = capability(dataset=f"mmlu/dev:{real_data / 'mmlu'}")
    assert {sample.target for sample in choice.dataset} == set("ABCD")


def test_attacks_on_one_goal_are_one_cluster(real_data):
    task = harmless(dataset=f"jailbreakbench-artifacts:{real_data / 'jailbreakbench'}")
    assert len(task.dataset) == 370
    assert len({sample.metadata["cluster"] for sample in task.dataset}) == 97


def test_questions_of_helpful_can_be_gsm8k(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"question": "How many?", "answer": "#### 1,000"}))
    task = helpful(instructions=None, questions=f"gsm8k:{path}")
    assert task.dataset[0].target == ["1000", "1,000"]


def test_a_set_of_another_kind_is_refused():
    with pytest.raises(DataError, match=r"xstest holds rows of kind 'over_refusal', not 'harmless'"):
        harmless(dataset="xstest:somewhere")


def test_an_unknown_name_points_to_suites_and_public_sets():
    with pytest.raises(DataError, match=r"no suite or public set 'harmbensh'\n.*did you mean 'harmbench'"):
        harmless(dataset="harmbensh")
