"""Labels beside points that do not collide with each other, with points, or with the frame."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Average width of a sans-serif face's glyphs, as a share of the size: plain and bold.
_GLYPH, _BOLD_GLYPH = 0.63, 0.71


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """About how wide a text will be, in pixels: fonts differ, so it errs on the wide side."""
    return len(text) * size * (_BOLD_GLYPH if bold else _GLYPH)


@dataclass(frozen=True)
class Box:
    """An axis-parallel rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: "Box") -> float:
        """Area that sticks out of ``frame``."""
        area = (self.right - self.left) * (self.bottom - self.top)
        return area - self.overlap(frame)


@dataclass(frozen=True)
class Placed:
    """Where a label goes: its box, and whether it is so far off that a line must lead to it."""

    box: Box
    leader: bool


def place(
    points: list[tuple[float, float]],
    widths: list[float],
    frame: Box,
    *,
    size: float = 12.0,
    radius: float = 6.0,
    avoid: Sequence[Box] = (),
) -> list[Placed]:
    """Place one label, of the given width, for each point; those in the most crowded surroundings go first.

    Each label takes the cheapest of places around its point, near ones first; overlap with labels already
    placed, with markers and with the outside of the frame costs far more than distance, and overlap with what
    is to be avoided where possible (whiskers) somewhat more.
    """
    marks = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    order = sorted(range(len(points)), key=lambda number: _crowding(points, number), reverse=True)
    placed: dict[int, Placed] = {}
    for number in order:
        best: tuple[float, Placed] | None = None
        width, height = widths[number], size * 1.15
        for distance in (radius + 4, radius + 14, radius + 28, radius + 46, radius + 68):
            for step in range(16):
                angle = step * math.pi / 8
                box = _box_at(points[number], width, height, distance, angle)
                cost = distance + 3 * (step % 4 != 0)
                cost += 40 * box.outside(frame)
                cost += 20 * sum(box.overlap(other.box) for other in placed.values())
                cost += 10 * sum(box.overlap(mark) for mark in marks)
                cost += 0.35 * sum(box.overlap(line) for line in avoid)
                if best is None or cost < best[0]:
                    best = (cost, Placed(box, leader=distance > radius + 10))
        assert best is not None, "there is always a candidate"
        placed[number] = best[1]
    return [placed[number] for number in range(len(points))]


def _crowding(points: list[tuple[float, float]], number: int) -> float:
    x, y = points[number]
    return sum(
        1 / (1 + math.hypot(x - other[0], y - other[1]))
        for index, other in enumerate(points)
        if index != number
    )


def _box_at(point: tuple[float, float], width: float, height: float, distance: float, angle: float) -> Box:
    """A box whose nearest edge or corner lies ``distance`` from the point in the given direction."""
    x = point[0] + distance * math.cos(angle)
    y = point[1] + distance * math.sin(angle)
    left = x - width * (1 - math.cos(angle)) / 2
    top = y - height * (1 - math.sin(angle)) / 2
    return Box(left, top, left + width, top + height)


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """The positions moved apart to at least ``gap``, in order, inside ``low`` … ``high`` where they fit."""
    order = sorted(range(len(positions)), key=lambda number: positions[number])
    moved = [positions[number] for number in order]
    for number in range(1, len(moved)):
        moved[number] = max(moved[number], moved[number - 1] + gap)
    if moved and moved[-1] > high:
        moved[-1] = high
        for number in range(len(moved) - 2, -1, -1):
            moved[number] = min(moved[number], moved[number + 1] - gap)
    if moved and moved[0] < low and (len(moved) - 1) * gap <= high - low:
        moved[0] = low
        for number in range(1, len(moved)):
            moved[number] = max(moved[number], moved[number - 1] + gap)
    result = [0.0] * len(positions)
    for place_, number in enumerate(order):
        result[number] = moved[place_]
    return result
