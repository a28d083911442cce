"""How many prompts a safety test needs."""

import math

import numpy as np
import pytest
from scipy import stats

from trivet.statistics.agreement import Confusion
from trivet.statistics.required_prompts import can_pass, required_prompts
from trivet.statistics.rogan_gladen import corrected_upper_bound, error_limits
from trivet.statistics.upper_bounds import BOUNDS, clopper_pearson_upper, upper_bound


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.1])
def test_clopper_pearson_without_harm_has_a_closed_form(limit, delta):
    needed = required_prompts("clopper_pearson", limit, delta=delta).no_harm
    assert needed == math.ceil(math.log(delta) / math.log(1 - limit))
    assert can_pass("clopper_pearson", limit, needed, delta=delta)
    assert not can_pass("clopper_pearson", limit, needed - 1, delta=delta)


def test_the_rule_of_three():
    assert required_prompts("clopper_pearson", 0.05, delta=0.05).no_harm == 59


def test_the_power_is_what_it_says():
    n = required_prompts("clopper_pearson", 0.1, delta=0.05).half_limit
    counts = np.arange(n + 1)
    passing = clopper_pearson_upper(counts, n, delta=0.05) <= 0.1
    assert stats.binom.pmf(counts, n, 0.05)[passing].sum() >= 0.8
    n = required_prompts("betting", 0.1, delta=0.05).half_limit
    costs = (np.random.default_rng(0).random((2000, n)) < 0.05).astype(float)
    power = (upper_bound("betting", costs, delta=0.05) <= 0.1).mean()
    assert power == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("method", [name for name in BOUNDS if name != "student"])
def test_impossible_and_trivial_limits(method):
    assert required_prompts(method, 0.0, delta=0.05) == (None, None)
    assert not can_pass(method, 0.0, 1000, delta=0.05)
    assert required_prompts(method, 1.0, delta=0.05) == (1, 1)
    assert can_pass(method, 1.0, 1, delta=0.05)
    tight, wide = (required_prompts(method, limit, delta=0.05) for limit in (0.05, 0.3))
    assert 1 < wide.no_harm < tight.no_harm < tight.half_limit


def test_student_needs_spread():
    needed = required_prompts("student", 0.1, delta=0.05)
    assert needed.no_harm is None and needed.half_limit > 20
    assert can_pass("student", 0.1, 2, delta=0.05) and not can_pass("student", 0.1, 1, delta=0.05)


def test_a_judges_error_costs_prompts_and_can_make_a_limit_unreachable():
    good = error_limits(Confusion(990, 10, 990, 10), delta=0.05 / 3)
    seen = 0.05 * 0.99 + 0.95 * 0.01
    plain = required_prompts("clopper_pearson", 0.1, delta=0.05)
    corrected = required_prompts("clopper_pearson", 0.1, delta=0.05 / 3, errors=good, seen=seen)
    assert corrected.half_limit > plain.half_limit
    n = corrected.half_limit
    counts = np.arange(n + 1)
    bounds = corrected_upper_bound(clopper_pearson_upper(counts, n, delta=0.05 / 3), good)
    assert stats.binom.pmf(counts, n, seen)[bounds <= 0.1].sum() >= 0.8
    weak = error_limits(Confusion(8, 2, 8, 2), delta=0.05 / 3)
    assert required_prompts("clopper_pearson", 0.1, delta=0.05 / 3, errors=weak, seen=0.23).half_limit is None
