"""A merge report as one HTML file that opens offline and runs nothing but its own script.

Names of tensors and models, recipes and warnings are texts of others: escaped, and shown without control
characters. The table is complete without the script, which only sorts and filters it.
"""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from trivet import __version__
from trivet._files import write_text
from trivet._text import printable
from trivet.merge._heat_maps import heat_map
from trivet.merge.report import MergeReport, TensorReport, pairs, summarise

HTML_FILE = "merge_report.html"
_NONE = "–"


@dataclass(frozen=True)
class Cell:
    """What a cell of the table shows, in smaller letters below, and the number that it is sorted by."""

    text: str
    value: float | None = None
    small: str = ""


@dataclass(frozen=True)
class Column:
    """One column of numbers: its heading, what it means, and a tensor's cell."""

    title: str
    meaning: str
    cell: Callable[[TensorReport], Cell]


def write_html(report: MergeReport, folder: Path) -> Path:
    """Write ``merge_report.html`` to ``folder``; returns its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / HTML_FILE
    write_text(path, render(report))
    return path


def render(report: MergeReport) -> str:
    """The report as HTML."""
    style, script = _asset("report.css"), _asset("report.js")
    summary = summarise(report)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    environment.filters.update(number=number, cosine=cosine, percent=percent, size=size)
    return environment.from_string(_asset("report.html.jinja")).render(
        report=report,
        summary=summary,
        cosines=pairs(summary.cosines),
        columns=_columns(report),
        warnings=_warnings(report),
        pictures=_pictures(report.tensors),
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )


def number(value: float | None, digits: int = 3) -> str:
    """A number in ``digits`` significant digits, thousands grouped, with a true minus sign."""
    if value is None:
        return _NONE
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
    return text.replace("-", "\u2212")


def cosine(value: float | None) -> str:
    """A cosine with three decimals, so that those of a column stand below one another."""
    return _NONE if value is None else f"{value:.3f}".replace("-", "\u2212")


def percent(value: float | None) -> str:
    """``0.6237`` → ``62.4 %``."""
    return _NONE if value is None else f"{100 * value:.1f} %"


def size(count: float) -> str:
    """Bytes in binary units: ``1.4 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _columns(report: MergeReport) -> list[Column]:
    """The columns for which any tensor has a number."""
    columns = [
        Column(
            "Elements", "number of elements", lambda t: Cell(f"{t.elements:,}", t.elements, _looked_at(t))
        ),
        Column("Kept", "share of each task vector that the method kept", lambda t: _each(t.density, percent)),
        Column("Rank", "singular vectors kept of each expert", lambda t: _each(t.ranks, number)),
        Column("Cosine", "mean cosine between the experts' task vectors", lambda t: _cosine(t)),
        Column(
            "Conflicts",
            "share of places where two non-zero task vectors disagree in sign",
            lambda t: Cell(percent(t.conflicts), t.conflicts),
        ),
        Column(
            "Length", "norm of each task vector over the base's", lambda t: _each(t.relative_norms, number)
        ),
        Column(
            "Condition",
            "smallest singular value of the experts' joined singular vectors",
            lambda t: Cell(number(t.condition), t.condition),
        ),
    ]
    return [column for column in columns if any(column.cell(t).text != _NONE for t in report.tensors)]


def _looked_at(tensor: TensorReport) -> str:
    return "" if tensor.sampled is None else f"{tensor.sampled:,} looked at"


def _each(values: Sequence[float | None] | None, shown: Callable[[float | None], str]) -> Cell:
    """One number for each expert; the mean is what is sorted by."""
    given = [value for value in values or () if value is not None]
    if not values or not given:
        return Cell(_NONE)
    return Cell(" · ".join(shown(value) for value in values), sum(given) / len(given))


def _cosine(tensor: TensorReport) -> Cell:
    found = pairs(tensor.cosines)
    if not found:
        return Cell(_NONE)
    mean = sum(found) / len(found)
    spread = f"{cosine(min(found))} to {cosine(max(found))}" if len(found) > 1 else ""
    return Cell(cosine(mean), mean, spread)


def _warnings(report: MergeReport) -> list[tuple[str, str]]:
    """Each warning once, with where it holds: the merge's own first, then those of most tensors."""
    places: dict[str, list[str]] = defaultdict(list)
    for tensor in report.tensors:
        for warning in tensor.warnings:
            places[warning].append(tensor.name)
    found = [(warning, "") for warning in report.warnings]
    for warning, names in sorted(places.items(), key=lambda entry: -len(entry[1])):
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        found.append((warning, names[0] + more))
    return found


def _pictures(tensors: Sequence[TensorReport]) -> list[dict[str, Any]]:
    """The heat maps that there are numbers for."""
    wanted: list[tuple[str, str, Callable[[TensorReport], float | None]]] = [
        ("Cosine", "Mean cosine between task vectors", lambda tensor: _cosine(tensor).value),
        ("Conflicts", "Share of places with conflicting signs", lambda tensor: tensor.conflicts),
        (
            "Length",
            "Mean norm of the task vectors over the base's",
            lambda t: _each(t.relative_norms, number).value,
        ),
    ]
    drawn = [
        {
            "title": title,
            "meaning": meaning,
            "map": heat_map(tensors, value_of, f"{meaning}, by layer and part"),
        }
        for title, meaning, value_of in wanted
    ]
    return [picture for picture in drawn if picture["map"] is not None]


def _finalize(value: Any) -> Any:
    """Applied to each value that the template prints, before it is escaped."""
    return value if isinstance(value, Markup) else printable(str(value))


def _asset(name: str) -> str:
    return (files("trivet.merge") / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The content-security-policy: this style, this script, nothing from anywhere else."""
    parts = ["default-src 'none'", f"style-src '{_digest(style)}'", f"script-src '{_digest(script)}'"]
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
