import pytest
from scipy import stats

from trivet.statistics.mcnemar import exact, mid_p


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 0), (3, 9), (7, 7), (40, 61)])
def test_exact_p_is_the_binomial_test_of_the_discordant_pairs(b, c):
    peer = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert exact(b, c) == pytest.approx(peer, abs=1e-12)
    assert exact(b, c) == exact(c, b)


def test_mid_p_counts_equally_extreme_pairs_half():
    # n = 5 discordant pairs, 4 against 1: more extreme are 0 and 5, equally extreme 1 and 4
    assert mid_p(4, 1) == pytest.approx(2 / 32 + (5 + 5) / 32 / 2)
    assert mid_p(2, 2) == pytest.approx(1 - 6 / 16 / 2)
    assert mid_p(0, 0) == 1.0


def test_fagerlands_example():
    # Fagerland et al. 2013, airway hyper-responsiveness: 1 and 7 discordant; exact .0703, mid-p .0391
    assert (round(exact(1, 7), 4), round(mid_p(1, 7), 4)) == (0.0703, 0.0391)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="negative"):
        exact(-1, 2)
