"""``study.yaml``: each mistake gives one clear message."""

from pathlib import Path

import pytest
import yaml

from trivet.errors import ConfigError
from trivet.study.spec import StudySpec, load_study, reference_of

GOOD = {
    "name": "s",
    "systems": {"a": {"model": "m"}, "b": "b.yaml"},
    "evaluations": ["helpful", {"task": "tests.py@mine", "args": {"n": 3}, "leg": "helpful"}],
}

RECIPE = {"merge_method": "ties", "base_model": "base", "models": [{"model": "one"}]}


def load(tmp_path: Path, **changes: object) -> StudySpec:
    values = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_study(path)


def test_names_stand_for_tasks_and_defaults_are_filled_in(tmp_path):
    spec = load(tmp_path)
    assert [entry.label for entry in spec.evaluations] == ["helpful", "mine"]
    assert spec.evaluations[0].shipped and not spec.evaluations[1].shipped
    assert (spec.engine, spec.epochs, spec.max_connections) == ("torch", None, 32)
    assert reference_of(spec) == "a"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evalutions": []}, "did you mean 'evaluations'"),
        ({"systems": {}}, "systems"),
        ({"systems": ...}, "systems"),
        ({"name": "a/b"}, "name"),
        ({"seed": "many"}, "seed.*received 'many'"),
        ({"epochs": 0}, "epochs.*received 0"),
        ({"max_cost": -1}, "max_cost"),
        ({"reference": "c"}, "no system 'c'"),
        ({"evaluations": ["helpfull"]}, "did you mean 'helpful'"),
        ({"evaluations": []}, "evaluations"),
        ({"evaluations": ["helpful", "helpful"]}, "'helpful' is there twice"),
        ({"evaluations": [{"taks": "x"}]}, "unknown key 'evaluations.0.taks'\n  → did you mean 'task'"),
        ({"evaluations": [{"args": {}}]}, "either `task`, or `prompts` with `judge`"),
        ({"evaluations": [{"prompts": "a.jsonl"}]}, "`prompts` needs `judge`"),
        ({"evaluations": [{"task": "a/b", "prompts": "a.jsonl", "judge": "refusal"}]}, "either `task`"),
        ({"evaluations": [{"task": "a/b", "judge": "refusal"}]}, "bring their scorer"),
        ({"evaluations": [{"task": "a/b", "leg": "hepful"}]}, "leg"),
        ({"systems": {"a": {"log": "a.eval", "model": "m"}}}, "unknown key 'model'"),
        ({"systems": {"a": {"merge": RECIPE, "model": "m"}}}, "systems.a: has `model` and `merge`"),
        ({"systems": {"a": {"merge": RECIPE, "log": "a.eval"}}}, "systems.a: unknown key 'merge'"),
        ({"systems": {"a": {"merge": 3}}}, "systems.a.merge: must be the path of a recipe"),
        ({"systems": {"a": {"merge": "no.yaml"}}}, "systems.a.merge: .*no.yaml: no such file"),
        ({"systems": {"a": {"merge": {**RECIPE, "merge_method": "tiess"}}}}, "systems.a.merge: .*'tiess'"),
        ({"systems": {"a": {"merge": {**RECIPE, "modles": []}}}}, "systems.a.merge: unknown key 'modles'"),
        ({"seeds": 3}, "no system of this study is trained"),
        ({"prices": {"c": {"input": 1, "output": 1}}}, "no system 'c'"),
        ({"prices": {"a": {"input": 1}}}, r"prices\.a\.output"),
    ],
)
def test_each_mistake_gives_one_message(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, **changes)
    assert str(tmp_path / "study.yaml") in str(caught.value)


def test_a_missing_file_and_bad_yaml(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_study(tmp_path / "bad.yaml")
