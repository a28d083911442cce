"""``seeds``: replicas are systems of their own, with what starts from them."""

from pathlib import Path

import pytest
import yaml

from trivet.errors import ConfigError
from trivet.study.spec import StudySpec, load_study

TRAINED = {"train": {"method": "dpo", "model": "m", "data": "pairs.jsonl", "seed": 7}}
AFTER = {"train": {"method": "dpo", "model": "system:first", "data": "pairs.jsonl"}}
MERGED = {
    "merge": {
        "merge_method": "linear",
        "models": [{"model": "m+system:first", "parameters": {"weight": 1.0}}, {"model": "other"}],
    }
}
TESTED = {"train": {"method": "high_confidence_rlhf", "model": "m", "data": "p.jsonl", "safety": 20}}


def load(tmp_path: Path, **changes: object) -> StudySpec:
    values = {"name": "s", "seeds": 2, "evaluations": ["helpful"], **changes}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_study(path)


def test_what_is_trained_is_trained_with_as_many_seeds_and_so_is_what_starts_from_it(tmp_path: Path) -> None:
    systems = {"base": {"model": "m"}, "first": TRAINED, "after": AFTER, "merged": MERGED, "other": "o.yaml"}
    systems["careful"] = {"model": "system:first", "system_prompt": "system:first"}
    systems["bare"] = "system:first"
    spec = load(tmp_path, systems=systems, reference="first", prices={"base": {"input": 1, "output": 2}})
    assert list(spec.systems) == [
        *("base", "first-1", "first-2", "after-1", "after-2", "merged-1", "merged-2", "other"),
        *("careful-1", "careful-2", "bare-1", "bare-2"),
    ]
    assert spec.systems["careful-2"] == {"model": "system:first-2", "system_prompt": "system:first"}
    assert spec.systems["bare-2"] == "system:first-2"
    assert spec.systems["base"] == {"model": "m"} and spec.systems["other"] == "o.yaml"
    assert spec.systems["first-1"] == TRAINED  # so a run that was made without replicas is one of them
    assert [spec.systems[f"first-{n}"]["train"]["seed"] for n in (1, 2)] == [7, 8]  # type: ignore[index]
    assert [spec.systems[f"after-{n}"]["train"]["seed"] for n in (1, 2)] == [0, 1]  # type: ignore[index]
    assert spec.systems["after-2"]["train"]["model"] == "system:first-2"  # type: ignore[index]
    assert spec.systems["merged-2"]["merge"]["models"][0]["model"] == "m+system:first-2"  # type: ignore[index]
    assert spec.reference == "first-1" and spec.seeds == 1 and list(spec.prices) == ["base"]


def test_a_price_is_that_of_each_replica(tmp_path: Path) -> None:
    spec = load(tmp_path, systems={"first": TRAINED}, prices={"first": {"input": 1, "output": 2}})
    assert list(spec.prices) == ["first-1", "first-2"] and spec.reference == "first-1"


def test_replicas_whose_tests_share_delta_are_allowed(tmp_path: Path) -> None:
    systems = {"first": {"train": {**TESTED["train"], "split": 2}}}
    assert list(load(tmp_path, systems=systems).systems) == ["first-1", "first-2"]
    assert list(load(tmp_path, systems={"first": TESTED}, seeds=1).systems) == ["first"]


def test_without_replicas_nothing_changes(tmp_path: Path) -> None:
    spec = load(tmp_path, systems={"first": TRAINED}, seeds=1)
    assert list(spec.systems) == ["first"] and spec.reference is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": {"a": {"model": "m"}}}, "no system of this study is trained"),
        ({"systems": {"first": TRAINED, "first-2": {"model": "m"}}}, "also the name of a replica of 'first'"),
        ({"systems": {"first": TRAINED, "b": {"merge": "recipe.yaml"}}}, "its recipe is a file"),
        ({"systems": {"first": TRAINED, "b": "runs.yaml"}}, "stands in a file"),
        ({"systems": {"first": TESTED}}, "2 replicas test 2 times"),
        ({"systems": {"first": {"train": {**TESTED["train"], "split": 2}}}, "seeds": 3}, "allows 2 tests"),
        ({"systems": {"f" * 63: TRAINED}}, "systems"),
        ({"systems": {"first": TRAINED}, "seeds": 101}, "seeds.*received 101"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    (tmp_path / "runs.yaml").write_text("model: system:first\n")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(MERGED["merge"]))
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **changes)
