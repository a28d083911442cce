"""Names, paths and mappings become judges; everything else is refused with a hint."""

from pathlib import Path

import pytest

from trivet.errors import ConfigError, JudgeError
from trivet.judges import Judge, resolve
from trivet.judges.artifact import SHIPPED
from trivet.judges.resolve import names


def test_a_name_gives_one_judge_per_process() -> None:
    judge = resolve("refusal")
    assert isinstance(judge, Judge)
    assert judge is resolve({"judge": "refusal"}) is resolve(judge)
    assert judge.name == "refusal" and judge.objective == "refusal"


def test_a_path_gives_the_judge_that_the_file_holds(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".prompts.safetensors"):
        (tmp_path / f"mine{suffix}").write_bytes((SHIPPED / f"refusal{suffix}").read_bytes())
    judge = resolve("mine.safetensors", base=tmp_path)
    assert judge.name == "mine"
    assert judge.identity == resolve("refusal").identity
    assert judge.training_prompts == resolve("refusal").training_prompts


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("refusl", "did you mean 'refusal'"),
        ({"judge": "gradr"}, "did you mean 'grader'"),
        ({"jugde": "refusal"}, "must name a judge"),
        ({"judge": "grader", "rubrik": "refusal"}, "did you mean 'rubric'"),
        ({"judge": "grader", "rubric": "taste"}, "rubric"),
        (3, "not int"),
    ],
)
def test_what_is_no_judge_is_refused(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(spec)  # type: ignore[arg-type]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    whole = (SHIPPED / "refusal.safetensors").read_bytes()
    for name, data in {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not weights"}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(JudgeError, match=name):
            resolve(path)
    with pytest.raises(JudgeError, match="no such file"):
        resolve(tmp_path / "absent.safetensors")


def test_a_file_that_is_no_judge_is_refused(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(2, dtype=np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(JudgeError, match="not a judge"):
        resolve(tmp_path / "weights.safetensors")


def test_a_refusal_judge_without_its_prompts_does_not_pass_for_unfitted(tmp_path: Path) -> None:
    (tmp_path / "lone.safetensors").write_bytes((SHIPPED / "refusal.safetensors").read_bytes())
    with pytest.raises(JudgeError, match="training prompts cannot be read"):
        _ = resolve(tmp_path / "lone.safetensors").training_prompts


def test_every_known_name_has_a_summary() -> None:
    assert {"refusal", "refusal_string_match", "head", "grader", "harmlessness_head"} <= names().keys()
    assert all(names().values())
