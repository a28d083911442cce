"""The fits agree with scikit-learn and with a closed form."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trivet.errors import JudgeError
from trivet.judges.logistic import choose_penalty, fit_bradley_terry, fit_multinomial, grouped_folds


def test_multinomial_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 5))
    y = (x @ generator.normal(size=(5, 3)) + generator.gumbel(size=(200, 3))).argmax(axis=1)
    weight = generator.uniform(0.2, 2, size=200)
    weights, intercepts = fit_multinomial(x, y, 3, 0.5, weight)
    peer = LogisticRegression(C=2.0, tol=1e-10, max_iter=5000).fit(x, y, weight)
    ours = weights @ x.T + intercepts[:, None]
    theirs = peer.coef_ @ x.T + peer.intercept_[:, None]
    np.testing.assert_allclose(ours - ours.mean(0), theirs - theirs.mean(0), atol=1e-3)


def test_bradley_terry_in_one_dimension_is_the_log_odds() -> None:
    # 30 wins, 10 losses at distance 1: without a penalty w = log(30 / 10).
    d = np.array([[1.0]] * 30 + [[-1.0]] * 10)
    assert fit_bradley_terry(d, 0.0)[0] == pytest.approx(np.log(3), abs=1e-5)


def test_bradley_terry_is_logistic_regression_on_differences() -> None:
    generator = np.random.default_rng(1)
    d = generator.normal(size=(150, 4)) + 0.3
    both, sign = np.concatenate([d, -d]), np.array([1] * 150 + [0] * 150)
    peer = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=5000).fit(both, sign)
    np.testing.assert_allclose(fit_bradley_terry(d, 1.0), peer.coef_[0], atol=1e-3)


def test_equal_data_give_equal_weights() -> None:
    d = np.random.default_rng(2).normal(size=(60, 8))
    np.testing.assert_array_equal(fit_bradley_terry(d, 1.0), fit_bradley_terry(d.copy(), 1.0))


def test_a_missing_class_is_refused() -> None:
    with pytest.raises(JudgeError, match="every class"):
        fit_multinomial(np.zeros((3, 2)), np.array([0, 0, 2]), 3, 1.0)


def test_folds_keep_groups_together_and_the_larger_penalty_wins_a_tie() -> None:
    groups = [str(n // 4) for n in range(40)]
    folds = grouped_folds(groups, 5, 0)
    assert len(set(zip(groups, folds.tolist()))) == 10 and set(folds.tolist()) == set(range(5))
    assert choose_penalty([0.1, 1.0, 10.0], folds, lambda penalty, held_out: 0.0).penalty == 10.0
    assert choose_penalty([0.1, 1.0], folds, lambda penalty, held_out: -penalty).penalty == 0.1
