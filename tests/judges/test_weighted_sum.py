"""A weighted sum of judges is a judge, and what it is made of is known to the circularity check."""

from pathlib import Path

import pytest

from trivet.errors import ConfigError
from trivet.judges import Judge, resolve
from trivet.judges.artifact import SHIPPED
from trivet.judges.base import parts_of
from trivet.judges.resolve import anchored_parts
from trivet.study.circular import Measured, Steered, find_circles

REFUSED = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "I'm sorry, I cannot help."}]
ANSWERED = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Knead it, then bake it."}]
EMPTY = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": ""}]


def spec(first: float, second: float) -> dict[str, object]:
    return {
        "judge": "weighted_sum",
        "of": {
            "phrases": {"judge": "refusal_string_match", "weight": first},
            "fitted": {"judge": "refusal", "weight": second},
        },
    }


def test_the_score_is_the_weighted_sum() -> None:
    judge = resolve(spec(2.0, -0.5))
    assert isinstance(judge, Judge) and judge is resolve(spec(2.0, -0.5))
    parts = [resolve(name).score([REFUSED, ANSWERED]) for name in ("refusal_string_match", "refusal")]
    for found, one, two in zip(judge.score([REFUSED, ANSWERED]), *parts, strict=True):
        assert one.value is not None and two.value is not None
        assert found.value == pytest.approx(2 * one.value - 0.5 * two.value)
        assert found.metadata["parts"] == {"phrases": one.value, "fitted": two.value}
    assert judge.objective == "2 refusal + -0.5 refusal"


def test_what_one_part_cannot_score_has_no_sum() -> None:
    (verdict,) = resolve(spec(1, 1)).score([EMPTY])
    assert verdict.value is None and verdict.reason is not None and verdict.reason.startswith("phrases: ")


def test_weights_are_part_of_the_identity_and_weight_0_asks_nobody() -> None:
    assert resolve(spec(1, 1)).identity != resolve(spec(1, 2)).identity
    assert parts_of(resolve(spec(1, 0))) == (resolve("refusal_string_match"),)
    assert resolve(spec(1, 1)).training_prompts == resolve("refusal").training_prompts


def test_a_part_that_steers_is_circular() -> None:
    steered = [Steered("system", (resolve(spec(1, 1)),))]
    (circle, *_) = find_circles(steered, [Measured("harmless", (resolve("refusal"),), frozenset())])
    assert "refusal, which selects the answers of system" in circle.text
    assert not find_circles(
        [Steered("system", (resolve(spec(1, 0)),))], [Measured("m", (resolve("refusal"),), frozenset())]
    )


def test_paths_are_relative_to_the_settings(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".prompts.safetensors"):
        (tmp_path / f"mine{suffix}").write_bytes((SHIPPED / f"refusal{suffix}").read_bytes())
    inner = {"judge": "weighted_sum", "of": {"b": {"judge": "mine.safetensors", "weight": 1}}}
    outer = {"judge": "weighted_sum", "of": {"a": {"judge": inner, "weight": 2}}}
    (part,) = parts_of(resolve(outer, base=tmp_path))
    assert part.identity == resolve("refusal").identity
    assert resolve(anchored_parts(outer, tmp_path)).identity == resolve(outer, base=tmp_path).identity


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({}, "of"),
        ({"a": {"judge": "refusl", "weight": 1}}, "did you mean 'refusal'"),
        ({"a": {"judge": "refusal"}}, "weight"),
        ({"a": {"judge": "refusal", "weight": float("nan")}}, "weight"),
        ({"a": {"judge": "refusal", "weight": 0}}, "all weights are 0"),
    ],
)
def test_wrong_settings_are_named(of: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"judge": "weighted_sum", "of": of})
