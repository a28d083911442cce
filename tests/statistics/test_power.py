import math

import numpy as np
import pytest
from scipy import stats

from trivet.statistics.power import (
    difference_variance,
    minimum_detectable_effect,
    minimum_detectable_effect_from,
    required_questions,
)


@pytest.mark.parametrize(("delta", "questions"), [(0.05, 349), (0.03, 969), (0.01, 8721)])
def test_the_paper_s_sample_sizes(delta, questions):
    # Miller 2024: ω² = 1/9, no spread within questions, 5 % two-sided, 80 % power
    assert required_questions(delta, 1 / 9) in (questions, questions + 1)


def test_effect_and_sample_size_are_inverse():
    effect = minimum_detectable_effect(969, 1 / 9)
    assert effect == pytest.approx(0.03, rel=1e-3)
    assert minimum_detectable_effect_from(math.sqrt(1 / 9 / 969)) == pytest.approx(effect)


def test_more_answers_a_question_help_only_within_questions():
    assert difference_variance(0.1, within_a=0.2, within_b=0.4, epochs_a=2, epochs_b=4) == pytest.approx(0.3)


def test_the_effect_is_found_with_the_stated_power():
    generator = np.random.default_rng(5)
    effect = minimum_detectable_effect(60, 0.25)
    means = generator.normal(effect, 0.5, size=(20_000, 60)).mean(axis=1)
    found = np.abs(means) / (0.5 / math.sqrt(60)) > stats.norm.ppf(0.975)
    assert np.mean(found) == pytest.approx(0.8, abs=0.01)


def test_few_units_need_a_larger_effect():
    assert minimum_detectable_effect_from(1.0, degrees_of_freedom=5) > minimum_detectable_effect_from(1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: required_questions(0, 1),
        lambda: minimum_detectable_effect(0, 1),
        lambda: minimum_detectable_effect(10, 1, power=1.0),
        lambda: difference_variance(-1),
        lambda: minimum_detectable_effect_from(-1),
    ],
)
def test_impossible_designs_are_refused(call):
    with pytest.raises(ValueError):
        call()
