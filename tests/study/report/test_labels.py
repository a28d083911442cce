"""Labels do not collide."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.study.report.labels import Box, place, spread, text_width

FRAME = Box(50, 12, 348, 280)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_labels_overlap_neither_each_other_nor_points_nor_the_frame(seed, count):
    random_ = random.Random(seed)
    points = [(random_.uniform(60, 340), random_.uniform(20, 270)) for _ in range(count)]
    widths = [text_width(f"system-{number}", 12) for number in range(count)]
    placed = [spot.box for spot in place(points, widths, FRAME)]
    for first, second in itertools.combinations(placed, 2):
        assert first.overlap(second) == 0
    for box in placed:
        assert box.outside(FRAME) < 1e-6
        for x, y in points:
            assert box.overlap(Box(x - 4, y - 4, x + 4, y + 4)) == 0


def test_points_on_one_spot_get_labels_apart():
    placed = [spot.box for spot in place([(200, 150)] * 4, [30.0] * 4, FRAME)]
    assert all(first.overlap(second) == 0 for first, second in itertools.combinations(placed, 2))


@given(st.lists(st.floats(0, 300), max_size=12))
def test_spread_keeps_the_gap_and_the_order(positions):
    moved = spread(positions, 15, 0, 300)
    order = sorted(range(len(positions)), key=lambda number: positions[number])
    for low, high in itertools.pairwise(order):
        assert moved[high] - moved[low] >= 15 - 1e-6
    assert all(-1e-6 <= position <= 300 + 1e-6 for position in moved)
