"""McNemar's test: do two systems differ on the same yes-or-no questions?"""

from scipy import stats


def exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p: twice the smaller binomial tail of the discordant pairs with probability ½.

    McNemar 1947, *Note on the sampling error of the difference between correlated proportions*. Without a
    discordant pair it is 1.

    Args:
        only_a: questions that only a has right; ``only_b`` likewise.

    Raises:
        ValueError: a count is negative.
    """
    n, smaller = _checked(only_a, only_b)
    return min(1.0, 2 * float(stats.binom.cdf(smaller, n, 0.5)))


def mid_p(only_a: int, only_b: int) -> float:
    """Two-sided mid-p: pairs as extreme as those seen count half.

    Fagerland, Lydersen and Laake 2013, *The McNemar test for binary matched-pairs data: mid-p and asymptotic
    are better than exact conditional*.

    Raises:
        ValueError: a count is negative.
    """
    n, smaller = _checked(only_a, only_b)
    same = float(stats.binom.pmf(smaller, n, 0.5))
    if only_a == only_b:
        return 1 - same / 2 if n else 1.0
    return 2 * float(stats.binom.cdf(smaller, n, 0.5)) - same


def _checked(only_a: int, only_b: int) -> tuple[int, int]:
    if only_a < 0 or only_b < 0:
        raise ValueError(f"discordant counts must not be negative, received {only_a} and {only_b}")
    return only_a + only_b, min(only_a, only_b)
