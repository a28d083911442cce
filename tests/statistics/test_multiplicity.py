import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trivet.statistics.multiplicity import benjamini_hochberg, holm

values = st.lists(st.floats(0, 1), min_size=0, max_size=30)


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, made monotone
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


@given(values)
def test_holm_lies_between_the_p_values_and_bonferroni_and_keeps_their_order(p):
    adjusted, p = holm(p), np.asarray(p)
    assert np.all(adjusted >= p - 1e-15) and np.all(adjusted <= np.minimum(1, len(p) * p) + 1e-15)
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0)


@given(values.filter(len))
def test_benjamini_hochberg_agrees_with_scipy(p):
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p, method="bh"))


def test_holm_bounds_the_chance_of_any_false_claim():
    generator = np.random.default_rng(3)
    # five true nulls of which neighbours are correlated, two real effects
    noise = generator.normal(size=(4000, 7))
    noise[:, 1:] = (noise[:, 1:] + noise[:, :-1]) / np.sqrt(2)
    noise[:, 5:] += 4
    p = 2 * stats.norm.sf(np.abs(noise))
    false_claims = [np.any(holm(row)[:5] < 0.05) for row in p]
    assert np.mean(false_claims) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


@pytest.mark.parametrize("bad", [[-0.1], [1.1], [float("nan")]])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm(bad)
