"""How many pairs of each dimension: the largest-remainder method, and the largest total that can be had.

Of a total N, dimension d with share p_d is due p_d · N. Everyone gets the whole part ⌊p_d N⌋, and the pairs
that are left go to the largest remainders (Hamilton's method), so that each number is its due rounded up or
down. Shares are taken as the decimal numbers that were written (0.1 is 1/10), so no pair depends on binary
rounding.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import floor


def shares_of(weights: Mapping[str, float]) -> dict[str, Fraction]:
    """``weights`` (0 or more, not all 0) divided by their sum, exactly; by name in alphabetical order.

    Raises:
        ValueError: a weight is negative, or all are 0.
    """
    exact = {name: Fraction(repr(float(weights[name]))) for name in sorted(weights)}
    if any(weight < 0 for weight in exact.values()) or not any(exact.values()):
        raise ValueError("weights are 0 or more, and one of them is above 0")
    whole = sum(exact.values())
    return {name: weight / whole for name, weight in exact.items()}


def largest_remainder(shares: Mapping[str, Fraction], total: int) -> dict[str, int]:
    """``total`` divided in proportion to ``shares`` (which sum to 1), in whole numbers that sum to it.

    Between equal remainders the alphabetically first name is served first.
    """
    due = {name: share * total for name, share in shares.items()}
    numbers = {name: floor(amount) for name, amount in due.items()}
    order = sorted(due, key=lambda name: (numbers[name] - due[name], name))
    for name in order[: total - sum(numbers.values())]:
        numbers[name] += 1
    return numbers


def largest_total(shares: Mapping[str, Fraction], available: Mapping[str, int]) -> int:
    """The largest total whose parts (by ``largest_remainder``) are all available.

    Args:
        shares: sum to 1.
        available: pairs of each dimension; a share above 0 is asked of one at least.
    """
    asked = {name: share for name, share in shares.items() if share}
    # Parts are their due rounded up or down: above the first bound one is missing, at the second none is.
    total = min(floor((available[name] + 1) / share) for name, share in asked.items())
    certain = min(floor(available[name] / share) for name, share in asked.items())
    while total > certain:
        numbers = largest_remainder(shares, total)
        if all(numbers[name] <= available[name] for name in asked):
            return total
        total -= 1
    return certain
