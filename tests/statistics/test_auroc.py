import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from trivet.statistics.auroc import auroc, true_positive_rate_at


@pytest.mark.parametrize("seed", range(4))
def test_the_area_is_scikit_learn_s_with_ties(seed):
    generator = np.random.default_rng(seed)
    y = generator.random(90) < 0.4
    x = np.round(generator.normal(size=90) + y, 1)
    assert auroc(y, x).value == pytest.approx(roc_auc_score(y, x))


def test_delong_s_variance_from_the_definition():
    generator = np.random.default_rng(5)
    a, b = np.round(generator.normal(1, 1, 15), 1), np.round(generator.normal(0, 1, 22), 1)
    kernel = (a[:, None] > b[None]) + (a[:, None] == b[None]) / 2
    expected = kernel.mean(1).var(ddof=1) / 15 + kernel.mean(0).var(ddof=1) / 22
    ours = auroc([1] * 15 + [0] * 22, np.concatenate([a, b]))
    assert ours.standard_error == pytest.approx(np.sqrt(expected))


def test_coverage():
    generator = np.random.default_rng(6)
    truth = stats.norm.cdf(1.5 / np.sqrt(2))
    covered = 0
    for _ in range(800):
        x = np.concatenate([generator.normal(1.5, 1, 40), generator.normal(0, 1, 60)])
        interval = auroc([1] * 40 + [0] * 60, x).interval
        covered += interval.low <= truth <= interval.high
    assert covered / 800 > 0.93


def test_perfect_separation_keeps_a_width_and_one_class_says_so():
    perfect = auroc([0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6])
    assert perfect.value == 1 and perfect.interval.low < 0.6
    assert auroc([1, 1], [0.1, 0.2]).reason == "both positives and negatives are needed"
    assert auroc([1, 0], [0.1, 0.2]).interval is None


def test_true_positive_rate_at_a_fixed_false_positive_rate():
    y = np.repeat([0, 1], [1000, 50])
    x = np.concatenate([np.arange(1000), np.linspace(900, 1099, 50)])
    result = true_positive_rate_at(y, x, 0.05)
    # 50 of 1000 negatives may pass: the threshold is the 51st largest, 949
    assert result.value == pytest.approx(np.mean(np.linspace(900, 1099, 50) > 949))
    with pytest.warns(UserWarning, match="about 1000 negatives"):
        true_positive_rate_at([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 0.01)


@pytest.mark.parametrize(
    "call",
    [
        lambda: auroc([0, 2], [1, 2]),
        lambda: auroc([0, 1], [1, float("nan")]),
        lambda: auroc([0, 1], [1, 2, 3]),
        lambda: true_positive_rate_at([0, 1], [1, 2], 1.0),
    ],
)
def test_malformed_scores_are_refused(call):
    with pytest.raises(ValueError):
        call()
