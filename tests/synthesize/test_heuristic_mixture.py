"""Proportions by hand: worked numbers, sources kept in proportion, and what cannot be had is refused."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trivet.errors import ConfigError, DataError
from trivet.synthesize import preference_set
from trivet.synthesize._apportionment import largest_remainder, shares_of
from trivet.synthesize.heuristic_mixture import Config, mix


def pairs(n: int, dimension: str, source: str = "s") -> Any:
    rows = [{"prompt": f"{dimension} {source} {i}?", "chosen": "yes", "rejected": "no"} for i in range(n)]
    return preference_set(rows, dimension=dimension, source=source)


def numbers(config: Config, *sets: Any) -> dict[str, int]:
    return dict(Counter(mix(config, list(sets)).dataset["dimension"]))


def test_proportions_of_a_total() -> None:
    # Due of 11 at 5 : 3 : 2 are 5.5, 3.3, 2.2: whole parts 5, 3, 2, and the largest remainder is a's.
    config = Config(proportions={"a": 5, "b": 3, "c": 2}, total=11)
    assert numbers(config, pairs(20, "a"), pairs(20, "b"), pairs(20, "c")) == {"a": 6, "b": 3, "c": 2}


def test_by_default_all_dimensions_are_equal_and_the_scarcest_one_decides() -> None:
    assert numbers(Config(), pairs(9, "a"), pairs(4, "b"), pairs(30, "c")) == {"a": 5, "b": 4, "c": 4}
    # 14 = 4⅔ each would round b (after a) up to 5, and there are only 4.


def test_a_proportion_of_nothing_leaves_a_dimension_out() -> None:
    mixture = mix(Config(proportions={"a": 1, "b": 0}), [pairs(3, "a"), pairs(4, "b")])
    assert mixture.datasheet.kept == {"a": {"s": 3}}
    assert mixture.datasheet.dropped == {"beyond proportion": {"b": {"s": 4}}}


def test_the_sources_of_a_dimension_keep_their_sizes() -> None:
    sets = [pairs(60, "a", "large"), pairs(30, "a", "small")]
    mixture = mix(Config(total=30), sets)
    assert mixture.datasheet.kept == {"a": {"large": 20, "small": 10}}


def test_a_larger_total_holds_the_smaller() -> None:
    sets = [pairs(20, "a"), pairs(20, "b")]
    small, large = (set(mix(Config(total=n, seed=3), sets).dataset["prompt"]) for n in (10, 20))
    assert small < large


@given(
    st.lists(st.integers(1, 12), min_size=3, max_size=3),
    st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any),
)
@settings(max_examples=40, deadline=None)
def test_proportions_are_exact_to_rounding(sizes: list[int], weights: list[int]) -> None:
    proportions = dict(zip("abc", map(float, weights), strict=True))
    sets = [pairs(n, d) for n, d in zip(sizes, "abc", strict=True)]
    found = numbers(Config(proportions=proportions), *sets)
    total = sum(found.values())
    expected = largest_remainder(shares_of(proportions), total)
    assert {**dict.fromkeys("abc", 0), **found} == expected


def test_what_cannot_be_had_is_refused_with_what_can() -> None:
    with pytest.raises(DataError) as raised:
        mix(Config(total=12), [pairs(9, "a"), pairs(4, "b")])
    assert "6 pairs of 'b', and 4 are left" in str(raised.value)
    assert "the largest total that can be had is 9" in str(raised.value)
    with pytest.raises(ConfigError, match="no pair has the dimension 'aa'"):
        mix(Config(proportions={"aa": 1}), [pairs(9, "a")])
    with pytest.raises(ConfigError, match="'b' has no proportion"):
        mix(Config(proportions={"a": 1}), [pairs(9, "a"), pairs(4, "b")])
    empty = preference_set([{"prompt": "", "chosen": "a", "rejected": "b"}], dimension="b", source="s")
    with pytest.raises(DataError, match=r"'b' is left \(1 empty\)"):
        mix(Config(), [pairs(9, "a"), empty])


@pytest.mark.parametrize(
    "values",
    [
        {"total": 0},
        {"seed": -1},
        {"proportions": {"a": -1}},
        {"proportions": {"a": 0}},
        {"proportions": {}},
        {"proportions": {"a": float("inf")}},
    ],
)
def test_settings_out_of_bounds_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config(**values)
