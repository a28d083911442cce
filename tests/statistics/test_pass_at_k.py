from itertools import combinations

import numpy as np
import pytest

from trivet.statistics.pass_at_k import pass_at_k


def test_against_enumeration():
    for n in range(1, 9):
        for c in range(n + 1):
            answers = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                draws = list(combinations(answers, k))
                expected = sum(any(draw) for draw in draws) / len(draws)
                assert float(pass_at_k(c, n, k)) == pytest.approx(expected, abs=1e-12)


def test_it_is_unbiased_and_the_plug_in_is_biased_downwards():
    p, n, k = 0.3, 6, 4
    truth = 1 - (1 - p) ** k
    correct = np.random.default_rng(2).binomial(n, p, size=200_000)
    assert pass_at_k(correct, n, k).mean() == pytest.approx(truth, abs=0.003)
    plug_in = (1 - (1 - correct / n) ** k).mean()
    assert plug_in < truth - 0.01


@pytest.mark.parametrize(("c", "n", "k"), [(1, 3, 0), (1, 3, 4), (4, 3, 1), (-1, 3, 1)])
def test_impossible_counts_are_refused(c, n, k):
    with pytest.raises(ValueError):
        pass_at_k(c, n, k)
