import numpy as np
import pytest
from scipy import stats

from trivet.statistics.bootstrap import (
    bias_corrected_interval,
    clustered_bootstrap,
    percentile_interval,
    resample_counts,
    resampled_means,
)


def test_counts_are_multinomial_and_follow_the_generator():
    counts = resample_counts(20, 5000, np.random.default_rng(1))
    assert counts.shape == (5000, 20) and np.all(counts.sum(axis=1) == 20)
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.06)
    assert counts.var(axis=0) == pytest.approx(np.full(20, 1 - 1 / 20), abs=0.08)
    assert np.array_equal(counts, resample_counts(20, 5000, np.random.default_rng(1)))


def test_every_system_sees_the_same_draw():
    generator = np.random.default_rng(2)
    totals = np.stack([np.arange(10.0), np.arange(10.0) + 0.25])
    means = resampled_means(resample_counts(10, 500, generator), totals, np.ones((2, 10)))
    assert means[:, 1] - means[:, 0] == pytest.approx(np.full(500, 0.25))
    assert means[:, 0].std() == pytest.approx(np.arange(10).std() / np.sqrt(10), rel=0.1)


def test_a_resample_without_scores_is_nan_and_not_zero():
    counts = np.array([[2.0, 0.0], [0.0, 2.0]])
    means = resampled_means(counts, np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]))
    assert means[0, 0] == 1 and np.isnan(means[1, 0])


def test_blocks_give_all_replicates():
    result = clustered_bootstrap(
        lambda counts: counts[:, 0], 3_000_000, np.random.default_rng(0), replicates=3
    )
    assert result.shape == (3,)


def test_bca_and_percentile_agree_with_scipy():
    x = np.random.default_rng(7).exponential(size=40)
    ours = clustered_bootstrap(lambda c: c @ x / 40, 40, np.random.default_rng(1), replicates=20_000)
    jackknife = (x.sum() - x) / 39
    for method, interval in (
        ("percentile", percentile_interval(ours)),
        ("BCa", bias_corrected_interval(ours, x.mean(), jackknife=jackknife)),
    ):
        peer = stats.bootstrap(
            (x,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(2)
        ).confidence_interval
        assert interval[:2] == pytest.approx((peer.low, peer.high), abs=0.02)


def test_bias_correction_mends_the_bias_of_a_maximum():
    generator = np.random.default_rng(9)
    truth, plain, corrected = 0.0, 0, 0
    for _ in range(400):
        x = generator.normal(size=(40, 4))
        counts = resample_counts(40, 400, generator)
        replicates = (counts @ x / 40).max(axis=1)
        estimate = x.mean(axis=0).max()
        plain += percentile_interval(replicates).low <= truth
        corrected += bias_corrected_interval(replicates, estimate).low <= truth
    assert corrected > plain + 20


def test_replicates_that_do_not_vary_give_no_interval():
    assert percentile_interval([0.5, 0.5]) is None
    assert bias_corrected_interval([0.5, 0.5], 0.5) is None


def test_an_estimate_outside_all_replicates_is_handled():
    interval = bias_corrected_interval(np.linspace(0, 1, 100), 5.0)
    assert np.isfinite(interval.low) and np.isfinite(interval.high)


@pytest.mark.parametrize("bad", [[1.0], [1.0, float("nan")]])
def test_bad_replicates_are_refused(bad):
    with pytest.raises(ValueError):
        percentile_interval(bad)
