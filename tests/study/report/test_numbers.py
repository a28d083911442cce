"""Numbers as readers want them."""

import pytest

from trivet.study.report import numbers
from trivet.study.report.svg import Scale, round_step, span
from trivet.study.results import Estimate


@pytest.mark.parametrize(
    ("form", "value", "shown"),
    [
        (numbers.percent, 0.6237, "62.4"),
        (numbers.percent, None, "–"),
        (numbers.points, 0.0312, "+3.1"),
        (numbers.points, -0.0312, "−3.1"),
        (numbers.points, -0.0001, "0.0"),
        (numbers.p_value, 0.0004, "< 0.001"),
        (numbers.p_value, 0.04, "0.040"),
        (numbers.number, 1234.5, "1,234"),
        (numbers.number, 0.01234, "0.0123"),
        (numbers.number, -2.5, "−2.5"),
        (numbers.number, 0.0, "0"),
        (numbers.size, 1_240_000_000, "1.2 GiB"),
        (numbers.size, 512, "512 B"),
        (numbers.moment, "2026-01-31T13:00:00+01:00", "31 January 2026, 12:00 UTC"),
        (numbers.moment, "yesterday", "yesterday"),
    ],
)
def test_forms(form, value, shown):
    assert form(value) == shown


def test_share_and_times():
    assert numbers.share(12, 150) == "12 of 150 (8.0 %)"
    assert numbers.times(828.4, 212.4) == "3.90×"
    assert numbers.times(1.0, None) == ""
    assert numbers.times(1.0, 0.0) == ""


def test_is_rate():
    assert numbers.is_rate(Estimate(value=0.3), None, Estimate(value=None, reason="x"))
    assert not numbers.is_rate(Estimate(value=7.2))


def test_scales_have_round_ticks():
    assert [round_step(rough) for rough in (0.013, 0.02, 0.3, 1, 7)] == [0.02, 0.02, 0.5, 1, 10]
    assert [round(tick, 9) for tick in Scale(0.33, 0.71, 0, 100).ticks(4)] == [0.4, 0.5, 0.6, 0.7]
    low, high = span([0.5, 0.5], floor=0.1, unit=True)
    assert low <= 0.45 and high >= 0.55
    assert span([0.99, 1.0], floor=0.1, unit=True)[1] == 1.0
