import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from trivet.statistics.agreement import Confusion, cohen_kappa, confusion
from trivet.statistics.proportions import wilson


@pytest.mark.parametrize("weights", [None, "quadratic"])
@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_scikit_learn_s(weights, seed):
    generator = np.random.default_rng(seed)
    a = generator.integers(4, size=80)
    b = np.where(generator.random(80) < 0.6, a, generator.integers(4, size=80))
    ours = cohen_kappa(a.tolist(), b.tolist(), labels=range(4), weights=weights)
    assert ours.value == pytest.approx(cohen_kappa_score(a, b, labels=range(4), weights=weights))


def test_kappa_and_its_error_by_hand():
    # 2×2 with cells 40 9 6 45 of 100: agreement .85, chance .49×.46 + .51×.54
    a = [0] * 49 + [1] * 51
    b = [0] * 40 + [1] * 9 + [0] * 6 + [1] * 45
    result = cohen_kappa(a, b)
    chance = 0.49 * 0.46 + 0.51 * 0.54
    kappa = (0.85 - chance) / (1 - chance)
    assert result.value == pytest.approx(kappa)
    # Fleiss, Cohen and Everitt 1969, equation 13
    p = np.array([[0.40, 0.09], [0.06, 0.45]])
    r, c = p.sum(1), p.sum(0)
    first = sum(p[i, i] * (1 - (r[i] + c[i]) * (1 - kappa)) ** 2 for i in range(2))
    second = (1 - kappa) ** 2 * sum(
        p[i, j] * (c[i] + r[j]) ** 2 for i in range(2) for j in range(2) if i != j
    )
    third = (kappa - chance * (1 - kappa)) ** 2
    assert result.standard_error == pytest.approx(np.sqrt((first + second - third) / 100) / (1 - chance))


def test_kappa_covers():
    generator = np.random.default_rng(1)
    cells = np.array([[0.55, 0.10], [0.05, 0.30]])
    chance = cells.sum(1) @ cells.sum(0)
    truth = (np.trace(cells) - chance) / (1 - chance)
    covered = 0
    for table in generator.multinomial(150, cells.ravel(), size=600):
        a = np.repeat([0, 0, 1, 1], table).tolist()
        b = np.repeat([0, 1, 0, 1], table).tolist()
        interval = cohen_kappa(a, b).interval
        covered += interval.low <= truth <= interval.high
    assert covered / 600 > 0.925


def test_perfect_agreement_keeps_a_width_and_one_label_is_undefined():
    perfect = cohen_kappa([0, 1] * 20, [0, 1] * 20)
    assert perfect.value == 1 and 0.7 < perfect.interval.low < 0.95
    same = cohen_kappa([1] * 5, [1] * 5)
    assert same.value is None and "undefined" in same.reason
    assert cohen_kappa([], []).reason == "there are no items"


def test_confusion_counts_and_rates():
    table = confusion([True, True, True, False, False], [True, True, False, False, True])
    assert table == Confusion(2, 1, 1, 1) and table.n == 5
    assert table.sensitivity().value == pytest.approx(2 / 3)
    assert table.sensitivity().interval == wilson(2, 3)
    assert table.specificity().value == 0.5
    assert table.youden().value == pytest.approx(2 / 3 + 0.5 - 1)
    assert table.youden().interval.low < table.youden().value < table.youden().interval.high


def test_a_judge_without_labelled_events_has_no_sensitivity():
    table = confusion([False, False], [False, True])
    assert table.sensitivity().value is None and "has the event" in table.sensitivity().reason
    assert table.youden().value is None and table.youden().reason


@pytest.mark.parametrize(
    "call",
    [
        lambda: cohen_kappa([1], [1, 2]),
        lambda: cohen_kappa([1], [2], labels=[1]),
        lambda: cohen_kappa([1], [1], weights="linear"),
        lambda: confusion([True], [True, False]),
    ],
)
def test_malformed_ratings_are_refused(call):
    with pytest.raises(ValueError):
        call()
