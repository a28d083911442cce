"""Numbers as a reader wants them: percent for rates, points for differences, a true minus sign."""

import math
from datetime import UTC, datetime

from trivet.study.results import Estimate

NONE = "–"
"""Stands where there is no number; the reason is beside it."""


def is_rate(*estimates: Estimate | None) -> bool:
    """True where every value and interval lies in [-1, 1], so that percent and points can be shown."""
    numbers = []
    for estimate in estimates:
        if estimate is not None and estimate.value is not None:
            numbers.append(estimate.value)
            if estimate.interval is not None:
                numbers += [estimate.interval.low, estimate.interval.high]
    return all(-1 <= number <= 1 for number in numbers)


def number(value: float | None, digits: int = 3) -> str:
    """At most ``digits`` significant digits, thousands grouped."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return _minus(text)


def percent(value: float | None) -> str:
    """``0.6237`` → ``62.4``; the unit stands in the heading or after it."""
    return NONE if value is None else _minus(f"{100 * value:.1f}")


def points(value: float | None) -> str:
    """A difference of two rates in percentage points, signed."""
    if value is None:
        return NONE
    text = f"{100 * value:+.1f}"
    return _minus("0.0" if text in {"+0.0", "-0.0"} else text)


def p_value(value: float | None) -> str:
    """``0.0004`` → ``< 0.001``."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(estimate: Estimate | None, *, signed: bool = False, rate: bool = True) -> str:
    """``[58.1, 66.0]``; empty where there is no interval."""
    if estimate is None or estimate.interval is None:
        return ""
    form = (points if signed else percent) if rate else number
    return f"[{form(estimate.interval.low)}, {form(estimate.interval.high)}]"


def times(value: float | None, reference: float | None) -> str:
    """How many times the reference: ``3.9×``."""
    if value is None or not reference:
        return ""
    return multiple(value / reference)


def multiple(ratio: float | None) -> str:
    """``3.90×``; from ten on without decimals."""
    if ratio is None:
        return NONE
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:,.0f}×"


def size(count: float | None) -> str:
    """Bytes in binary units: ``1.4 GiB``."""
    if count is None:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def moment(text: str) -> str:
    """An ISO 8601 time for people: ``31 January 2026, 12:00 UTC``; other text as it is."""
    try:
        time = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return text
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def share(part: int, whole: int) -> str:
    """``12 of 150 (8.0 %)``."""
    if not whole:
        return f"{part:,}"
    return f"{part:,} of {whole:,} ({percent(part / whole)} %)"


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")
