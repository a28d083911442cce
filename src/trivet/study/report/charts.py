"""The report's charts, as inline SVG: strips with intervals, Pareto plots, all legs in one view."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trivet.study.report.labels import Box, place, spread, text_width
from trivet.study.report.numbers import interval, number, percent, points
from trivet.study.report.svg import Scale, colour_class, element, figure, marker, span
from trivet.study.results import Bounds, Comparison, Estimate

_SIZE = 12.0  # of text, in the charts' own pixels


@dataclass(frozen=True)
class Point:
    """One system in a Pareto plot. ``index`` gives its colour and shape."""

    index: int
    name: str
    x: Estimate
    y: Estimate
    on_front: bool


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, and whether that is a rate."""

    title: str
    rate: bool = True

    def text(self, value: float) -> str:
        """A tick's text."""
        return f"{100 * value:.0f}" if self.rate else number(value)


def short(name: str, length: int = 20) -> str:
    """The name, or its beginning and its end, where names of one family differ."""
    head = (length - 1) // 2
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"


def interval_strip(
    index: int, name: str, estimate: Estimate, bounds: Bounds | None, reference: float | None, scale: Scale
) -> Markup:
    """One estimate on its scale: bounds as a pale bar, the interval as a whisker, the reference as a line."""
    if estimate.value is None:
        return Markup("")
    middle, height = 9.0, 18.0
    parts = [element("line", x1=scale.start, x2=scale.end, y1=middle, y2=middle, class_="track")]
    parts += [
        element("line", x1=scale(tick), x2=scale(tick), y1=middle - 3, y2=middle + 3, class_="track")
        for tick in scale.ticks(2)
    ]
    if bounds is not None and bounds.high - bounds.low > 1e-9:
        left, right = scale(bounds.low), scale(bounds.high)
        parts.append(
            element("rect", x=left, y=middle - 6, width=right - left, height=12, rx=2, class_="bounds")
        )
    if reference is not None:
        parts.append(
            element("line", x1=scale(reference), x2=scale(reference), y1=0, y2=height, class_="reference")
        )
    if estimate.interval is not None:
        parts.append(
            element(
                "line",
                x1=scale(estimate.interval.low),
                x2=scale(estimate.interval.high),
                y1=middle,
                y2=middle,
                class_=f"whisker {colour_class(index)}",
            )
        )
    parts.append(marker(index, scale(estimate.value), middle, 4.5))
    label = f"{name}: {percent(estimate.value)} {interval(estimate)}"
    return figure(scale.start + scale.end, height, label, *parts, class_="strip")


def difference_strip(index: int, comparison: Comparison, scale: Scale) -> Markup:
    """A difference with its interval around zero; what the comparison could not have found is shaded."""
    value = comparison.difference.value
    if value is None:
        return Markup("")
    middle, height = 9.0, 18.0
    parts = []
    effect = comparison.minimum_detectable_effect
    if effect is not None:
        left, right = scale(-effect), scale(effect)
        parts.append(element("rect", x=left, y=1, width=right - left, height=16, rx=2, class_="bounds"))
    parts.append(element("line", x1=scale(0), x2=scale(0), y1=0, y2=height, class_="zero"))
    if comparison.difference.interval is not None:
        parts.append(
            element(
                "line",
                x1=scale(comparison.difference.interval.low),
                x2=scale(comparison.difference.interval.high),
                y1=middle,
                y2=middle,
                class_=f"whisker {colour_class(index)}",
            )
        )
    parts.append(marker(index, scale(value), middle, 4.5))
    label = f"{comparison.system} minus {comparison.baseline}, {comparison.leg}: {points(value)}"
    return figure(scale.start + scale.end, height, label, *parts, class_="strip")


def pareto_plot(systems: Sequence[Point], x_axis: Axis, y_axis: Axis) -> Markup:
    """Two legs against each other: points with both intervals, the front as a step line, direct labels."""
    width, height = 360.0, 330.0
    frame = Box(50.0, 12.0, width - 12, height - 50)
    x_scale = Scale(*_limits([point.x for point in systems], x_axis), frame.left, frame.right)
    y_scale = Scale(*_limits([point.y for point in systems], y_axis), frame.bottom, frame.top)
    parts = _grid(x_scale, y_scale, frame, x_axis, y_axis)
    placed = [(point, x_scale(point.x.value or 0.0), y_scale(point.y.value or 0.0)) for point in systems]
    parts.append(_front_line(placed, frame))
    whiskers: list[Box] = []
    for point, x, y in placed:
        kind = f"cross {colour_class(point.index)}"
        if point.x.interval is not None:
            low, high = x_scale(point.x.interval.low), x_scale(point.x.interval.high)
            parts.append(element("line", x1=low, x2=high, y1=y, y2=y, class_=kind))
            whiskers.append(Box(low, y - 1, high, y + 1))
        if point.y.interval is not None:
            low, high = y_scale(point.y.interval.low), y_scale(point.y.interval.high)
            parts.append(element("line", x1=x, x2=x, y1=low, y2=high, class_=kind))
            whiskers.append(Box(x - 1, high, x + 1, low))
    parts += [marker(point.index, x, y, 6) for point, x, y in placed]
    texts = [short(point.name, 20 if len(systems) <= 6 else 12) for point in systems]
    widths = [
        text_width(text, _SIZE, bold=point.on_front) for text, point in zip(texts, systems, strict=True)
    ]
    boxes = place([(x, y) for _, x, y in placed], widths, frame, size=_SIZE, avoid=whiskers)
    for (point, x, y), text, spot in zip(placed, texts, boxes, strict=True):
        box = spot.box
        if spot.leader:
            edge_x = min(max(x, box.left), box.right)
            edge_y = min(max(y, box.top), box.bottom)
            parts.append(element("line", x1=x, y1=y, x2=edge_x, y2=edge_y, class_="leader"))
        kind = "label strong" if point.on_front else "label"
        parts.append(
            element(
                "text",
                text,
                x=(box.left + box.right) / 2,
                y=box.bottom - 3,
                text_anchor="middle",
                class_=kind,
            )
        )
    names = ", ".join(point.name for point in systems if point.on_front) or "none"
    return figure(width, height, f"{x_axis.title} against {y_axis.title}; on the front: {names}", *parts)


def _limits(estimates: list[Estimate], axis: Axis) -> tuple[float, float]:
    numbers: list[float] = []
    for estimate in estimates:
        numbers += [estimate.value or 0.0]
        if estimate.interval is not None:
            numbers += [estimate.interval.low, estimate.interval.high]
    floor = 0.1 if axis.rate else 1e-6
    return span(numbers, floor=floor, unit=axis.rate)


def _grid(x_scale: Scale, y_scale: Scale, frame: Box, x_axis: Axis, y_axis: Axis) -> list[Markup]:
    parts = []
    for tick in x_scale.ticks(5):
        x = x_scale(tick)
        parts.append(element("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="grid"))
        text = x_axis.text(tick)
        parts.append(element("text", text, x=x, y=frame.bottom + 17, text_anchor="middle", class_="tick"))
    for tick in y_scale.ticks(5):
        y = y_scale(tick)
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        parts.append(
            element("text", y_axis.text(tick), x=frame.left - 8, y=y + 4, text_anchor="end", class_="tick")
        )
    unit = " (%) →"
    middle_x, middle_y = (frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2
    title = x_axis.title + (unit if x_axis.rate else " →")
    parts.append(element("text", title, x=middle_x, y=frame.bottom + 40, text_anchor="middle", class_="axis"))
    title = y_axis.title + (unit if y_axis.rate else " →")
    turn = f"rotate(-90 14 {middle_y:g})"
    parts.append(
        element("text", title, x=14, y=middle_y, text_anchor="middle", transform=turn, class_="axis")
    )
    return parts


def _front_line(placed: list[tuple[Point, float, float]], frame: Box) -> Markup:
    """The region that the front dominates, bounded by its step line."""
    corners = sorted((x, y) for point, x, y in placed if point.on_front)
    if not corners:
        return Markup("")
    path = [f"M{frame.left:.1f},{corners[0][1]:.1f}"]
    for number_, (x, y) in enumerate(corners):
        path.append(f"L{x:.1f},{y:.1f}")
        following = corners[number_ + 1][1] if number_ + 1 < len(corners) else frame.bottom
        path.append(f"L{x:.1f},{following:.1f}")
    line = " ".join(path)
    closed = f"{line} L{frame.left:.1f},{frame.bottom:.1f} Z"
    return element("path", d=closed, class_="dominated") + element("path", d=line, class_="front")


def all_legs(
    systems: Sequence[tuple[int, str, Sequence[Estimate | None], bool]], titles: Sequence[str]
) -> Markup:
    """Every leg in one view: an axis a leg, a line a system, an interval at each crossing.

    ``systems``: (index, name, one estimate for each leg, whether on the front). A system that lacks a leg has
    a gap there. Lines of systems off the front are dashed.
    """
    width, height = 460.0, 340.0
    top, bottom, left = 44.0, height - 22.0, 72.0
    label_width = max(text_width(short(name, 17), _SIZE, bold=True) for _, name, _, _ in systems)
    right = width - label_width - 44
    found = [
        estimate for _, _, row, _ in systems for estimate in row if estimate and estimate.value is not None
    ]
    if not found:
        return Markup("")
    axis = Axis("", rate=all(-1 <= (estimate.value or 0) <= 1 for estimate in found))
    scale = Scale(*_limits(found, axis), bottom, top)
    stops = [left + (right - left) * number_ / max(len(titles) - 1, 1) for number_ in range(len(titles))]
    parts = []
    for tick in scale.ticks(5):
        y = scale(tick)
        parts.append(element("line", x1=left - 32, x2=right + 24, y1=y, y2=y, class_="grid"))
        parts.append(element("text", axis.text(tick), x=left - 38, y=y + 4, text_anchor="end", class_="tick"))
    for x, title in zip(stops, titles, strict=True):
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="pole"))
        heading = f"{title} (%)" if axis.rate else title
        parts.append(element("text", heading, x=x, y=24, text_anchor="middle", class_="axis"))
    ends: list[tuple[int, str, float, float, bool]] = []
    middle = (len(systems) - 1) / 2
    for order, (index, name, row, on_front) in enumerate(systems):
        shift = (order - middle) * min(9.0, 60.0 / max(len(systems), 1))
        crossings: list[tuple[float, float]] = []
        for x, estimate in zip(stops, row, strict=True):
            if estimate is None or estimate.value is None:
                continue
            crossings.append((x + shift, scale(estimate.value)))
            if estimate.interval is not None:
                low, high = scale(estimate.interval.low), scale(estimate.interval.high)
                parts.append(
                    element(
                        "line",
                        x1=x + shift,
                        x2=x + shift,
                        y1=low,
                        y2=high,
                        class_=f"cross {colour_class(index)}",
                    )
                )
        if not crossings:
            continue
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in crossings)
        kind = f"path {colour_class(index)}" + ("" if on_front else " off")
        parts.append(element("polyline", points=line, class_=kind))
        parts += [marker(index, x, y, 5) for x, y in crossings]
        ends.append((index, name, *crossings[-1], on_front))
    heights = spread([y for _, _, _, y, _ in ends], _SIZE * 1.25, top, bottom)
    for (_, name, x, y, on_front), label_y in zip(ends, heights, strict=True):
        start = width - label_width - 4
        parts.append(element("line", x1=x + 7, y1=y, x2=start - 4, y2=label_y, class_="leader"))
        kind = "label strong" if on_front else "label"
        parts.append(element("text", short(name, 17), x=start, y=label_y + 4, class_=kind))
    return figure(width, height, f"All of {', '.join(titles)} for each system", *parts)


LABEL_COLOURS = {
    "correct": 0,
    "fulfilled": 0,
    "idk": 3,
    "wrong": 2,
    "unfulfilled": 2,
    "full_refusal": 5,
    "partial_refusal": 1,
    "compliance": 4,
    "off_topic": 3,
    "unparsed": 3,
}
"""The colour of each label that Trivet's own evaluations give; bars show the labels in this order."""


def label_colours(labels: Iterable[str]) -> dict[str, str]:
    """The labels in the order of the bars, with the class that colours them."""
    known = [label for label in LABEL_COLOURS if label in set(labels)]
    others = sorted(set(labels) - set(LABEL_COLOURS))
    taken = {LABEL_COLOURS[label] for label in known}
    free = [colour for colour in range(6) if colour not in taken] or list(range(6))
    classes = {label: f"label-{LABEL_COLOURS[label]}" for label in known}
    return {**classes, **{label: f"label-{free[at % len(free)]}" for at, label in enumerate(others)}}


def label_bar(counts: dict[str, int], unscored: int) -> Markup:
    """Answers by label as one stacked bar; what could not be scored comes last."""
    total = sum(counts.values()) + unscored
    if not total:
        return Markup("")
    width, x = 200.0, 0.0
    parts = []
    rows = [(label, counts[label], kind) for label, kind in label_colours(counts).items()]
    rows.append(("could not score", unscored, "unscored"))
    for label, count, kind in rows:
        if not count:
            continue
        length = width * count / total
        title = element("title", f"{label.replace('_', ' ')}: {count} of {total}")
        parts.append(
            element("rect", title, x=x, y=0, width=max(length - 1, 0.5), height=10, class_=f"part {kind}")
        )
        x += length
    text = ", ".join(f"{label.replace('_', ' ')} {count}" for label, count, _ in rows if count)
    return figure(width, 10, text, *parts, class_="stack")
