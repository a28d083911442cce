"""A small builder of inline SVG: escaped elements, scales with round ticks, marker shapes.

Colours come from the page's style sheet by class (``s0`` … for systems), so that light and dark work; no
``style`` attribute is written, which the page's content-security-policy would refuse.
"""

import math
from dataclasses import dataclass

from markupsafe import Markup, escape

from trivet.study.report.characters import visible

N_COLOURS = 8
_SHAPES = ("circle", "square", "up", "diamond", "down", "plus", "hexagon")


def element(tag: str, *children: str | Markup, **attributes: object) -> Markup:
    """One element. Children that are plain text and all attribute values are escaped.

    An attribute's underscores become hyphens; a trailing one is dropped (``class_``). ``None`` leaves it out.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None:
            continue
        if isinstance(value, float):
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        parts.append(f' {name.rstrip("_").replace("_", "-")}="{escape(visible(str(value)))}"')
    inner = "".join(str(child if isinstance(child, Markup) else escape(visible(child))) for child in children)
    return Markup("".join(parts) + (f">{inner}</{tag}>" if inner else "/>"))


def figure(width: float, height: float, label: str, *children: Markup, class_: str = "chart") -> Markup:
    """The outer ``<svg>``; ``label`` is read aloud in place of the picture."""
    title = element("title", label)
    return element(
        "svg",
        title,
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        class_=class_,
    )


@dataclass(frozen=True)
class Scale:
    """Maps ``low`` … ``high`` linearly to the pixels ``start`` … ``end``; values outside are clipped."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About ``count`` round values inside the scale."""
        step = round_step((self.high - self.low) / max(count, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def round_step(rough: float) -> float:
    """The smallest of 1, 2, 5 × 10ⁿ that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def span(values: list[float], *, floor: float, unit: bool) -> tuple[float, float]:
    """Limits around ``values`` with a margin, at least ``floor`` wide, on round numbers.

    ``unit`` keeps rates inside [0, 1].
    """
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), (floor - (high - low)) / 2, 1e-9)
    low, high = low - margin, high + margin
    step = round_step((high - low) / 8)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if unit:
        low, high = max(low, 0.0), min(high, 1.0)
    return low, high


def colour_class(index: int) -> str:
    """The class of system number ``index``."""
    return f"s{index % N_COLOURS}"


def marker(index: int, x: float, y: float, size: float = 5.0) -> Markup:
    """The mark of system number ``index``: colour and shape, so that colour alone never carries meaning."""
    shape = _SHAPES[index % len(_SHAPES)]
    kind = f"mark {colour_class(index)}"
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=size, class_=kind)
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "up": [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        "down": [(0, 1.15), (1.1, -0.85), (-1.1, -0.85)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "plus": [
            *((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)),
            *((0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)),
        ],
        "hexagon": [(0, -1.1), (0.95, -0.55), (0.95, 0.55), (0, 1.1), (-0.95, 0.55), (-0.95, -0.55)],
    }[shape]
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return element("polygon", points=points, class_=kind)


def symbol(index: int) -> Markup:
    """The mark of system number ``index`` as a small picture in a line of text."""
    return element("svg", marker(index, 7, 7, 5), viewBox="0 0 14 14", class_="symbol", aria_hidden="true")
