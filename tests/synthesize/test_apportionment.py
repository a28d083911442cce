"""Largest remainder: worked examples, the quota rule, and the largest total against a search."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.synthesize._apportionment import largest_remainder, largest_total, shares_of

weights = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 20).map(float), min_size=1).filter(
    lambda drawn: any(drawn.values())
)


def test_a_worked_example() -> None:
    # Due of 10: 4.5, 3.5, 2. Whole parts 4, 3, 2 leave one; a and b have the remainder 1/2, a comes first.
    shares = shares_of({"b": 0.35, "c": 0.2, "a": 0.45})
    assert largest_remainder(shares, 10) == {"a": 5, "b": 3, "c": 2}
    # Due of 11: 4.95, 3.85, 2.2. Whole parts 4, 3, 2 leave two, for the remainders 0.95 and 0.85.
    assert largest_remainder(shares, 11) == {"a": 5, "b": 4, "c": 2}


def test_shares_are_the_decimal_numbers_that_were_written() -> None:
    assert shares_of({"a": 0.1, "b": 0.2}) == {"a": Fraction(1, 3), "b": Fraction(2, 3)}
    # In binary 3 · 0.1 is above 0.3; here the dues are whole and nothing is rounded.
    assert largest_remainder(shares_of({"a": 0.1, "b": 0.9}), 30) == {"a": 3, "b": 27}


@pytest.mark.parametrize("bad", [{}, {"a": 0.0}, {"a": 2.0, "b": -1.0}])
def test_weights_are_not_negative_nor_all_nothing(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        shares_of(bad)


@given(weights, st.integers(0, 500))
def test_every_part_is_its_due_rounded_up_or_down(drawn: dict[str, float], total: int) -> None:
    shares = shares_of(drawn)
    numbers = largest_remainder(shares, total)
    assert sum(numbers.values()) == total
    assert all(abs(numbers[name] - share * total) < 1 for name, share in shares.items())
    assert all(numbers[name] == 0 for name, share in shares.items() if share == 0)


@given(weights, st.lists(st.integers(1, 30), min_size=5, max_size=5))
def test_the_largest_total_is_the_one_a_search_finds(drawn: dict[str, float], counts: list[int]) -> None:
    available = dict(zip("abcde", counts, strict=True))
    shares = shares_of(drawn)

    def fits(total: int) -> bool:
        parts = largest_remainder(shares, total)
        return all(parts[name] <= available[name] for name in parts)

    # No total above the number of all pairs fits.
    assert largest_total(shares, available) == max(n for n in range(sum(counts) + 1) if fits(n))
