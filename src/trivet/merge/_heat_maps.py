"""Small pictures of a number over layers (columns) and their parts (rows), as inline SVG.

Strength is opacity and sign is colour, both by class and attribute: the page's content-security-policy allows
no ``style`` attribute. Each cell says its tensor and number when it is pointed at; the table has them all.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trivet._text import printable
from trivet.merge.layers import layer_of
from trivet.merge.report import TensorReport, weighted_mean

_CELL = 15
_LABELS = 200
_LABEL_LENGTH = 30
_TEXT = 12


@dataclass(frozen=True)
class HeatMap:
    """One picture: ``limit`` is the largest magnitude, at which the colour is full."""

    svg: Markup
    limit: float
    negative: bool


def heat_map(
    tensors: Sequence[TensorReport], value_of: Callable[[TensorReport], float | None], label: str
) -> HeatMap | None:
    """The picture of a number, or ``None`` where fewer than two layers have it.

    Numbered parts of a layer (experts of a mixture) share a row: their mean, weighted by elements.

    Args:
        label: is read aloud in place of the picture.
    """
    cells: dict[tuple[str, int], list[TensorReport]] = {}
    for tensor in tensors:
        layer = layer_of(tensor.name)
        if layer is not None and value_of(tensor) is not None:
            part = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", layer.tail.strip(".").removesuffix(".weight"))
            cells.setdefault((part, layer.number), []).append(tensor)
    values = {
        place: value
        for place, found in cells.items()
        if (value := weighted_mean(found, [value_of(tensor) for tensor in found])) is not None
    }
    rows = list(dict.fromkeys(row for row, _ in values))
    columns = sorted({column for _, column in values})
    if len(columns) < 2:
        return None
    limit = max(abs(value) for value in values.values())
    parts = [_row_label(name, place) for place, name in enumerate(rows)]
    parts += [
        _column_label(number, place, len(rows)) for place, number in enumerate(columns) if place % 4 == 0
    ]
    row_of = {name: place for place, name in enumerate(rows)}
    column_of = {number: place for place, number in enumerate(columns)}
    for (name, number), value in values.items():
        parts.append(_cell(name, number, value, limit, column_of[number], row_of[name]))
    width, height = _LABELS + _CELL * len(columns) + 8, _CELL * (len(rows) + 2)
    svg = Markup('<svg class="heat" role="img" width="{0}" height="{1}" viewBox="0 0 {0} {1}">').format(
        width, height
    )
    svg += Markup("<title>{}</title>").format(printable(label)) + Markup("").join(parts) + Markup("</svg>")
    return HeatMap(svg, limit, any(value < 0 for value in values.values()))


def _row_label(name: str, place: int) -> Markup:
    name = printable(name).replace("\n", " ")
    shown = name if len(name) <= _LABEL_LENGTH else f"…{name[1 - _LABEL_LENGTH :]}"
    return Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
        _LABELS - 8, _CELL * place + _TEXT, shown
    )


def _column_label(number: int, place: int, rows: int) -> Markup:
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        _LABELS + _CELL * place + _CELL // 2, _CELL * rows + _TEXT + 3, number
    )


def _cell(name: str, number: int, value: float, limit: float, column: int, row: int) -> Markup:
    return Markup(
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.2f}"><title>{}</title></rect>'
    ).format(
        "minus" if value < 0 else "plus",
        _LABELS + _CELL * column,
        _CELL * row,
        _CELL - 1,
        _CELL - 1,
        abs(value) / limit if limit else 0.0,
        f"layer {number}, {printable(name)}: {value:.3g}",
    )
