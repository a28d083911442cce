"""The table to copy: one row a system and leg, as CSV and as Markdown, for a paper or a spreadsheet."""

import csv
import io

from trivet.study.report.characters import visible
from trivet.study.report.view import View
from trivet.study.results import StudyResults

COLUMNS = (
    "system",
    "leg",
    "value",
    "low",
    "high",
    "bound_low",
    "bound_high",
    "questions",
    "unscored",
    "difference",
    "difference_low",
    "difference_high",
    "p_holm",
    "minimum_detectable_effect",
    "verdict",
    "judges",
    "circular_use",
)


def rows(results: StudyResults) -> list[dict[str, str]]:
    """One row for each system and leg; the difference is to the reference. Missing numbers are empty."""
    view = View(results)
    against = {(entry.system, entry.leg): entry for entry in results.comparisons}
    found = []
    for leg in results.legs:
        comparison = against.get((leg.system, leg.leg))
        interval = leg.estimate.interval
        difference = comparison.difference if comparison else None
        spread = difference.interval if difference else None
        values = (
            visible(leg.system),
            leg.leg,
            leg.estimate.value,
            interval.low if interval else None,
            interval.high if interval else None,
            leg.bounds.low if leg.bounds else None,
            leg.bounds.high if leg.bounds else None,
            leg.n_questions,
            leg.n_unscored,
            difference.value if difference else None,
            spread.low if spread else None,
            spread.high if spread else None,
            comparison.p_holm if comparison else None,
            comparison.minimum_detectable_effect if comparison else None,
            comparison.verdict if comparison else None,
            visible(view.judge_words(leg.system, leg.leg)),
            "yes" if view.leg_marks(leg.system, leg.leg) else "",
        )
        found.append({name: _text(value) for name, value in zip(COLUMNS, values, strict=True)})
    return found


def as_csv(results: StudyResults) -> str:
    """Comma-separated values with a header. Cells that a spreadsheet would run as a formula are disarmed."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(results):
        writer.writerow(
            {name: _disarmed(text) if name in {"system", "judges"} else text for name, text in row.items()}
        )
    return stream.getvalue()


def as_markdown(results: StudyResults) -> str:
    """A Markdown table: systems as rows, legs as columns, value and interval in each cell."""
    legs = list(dict.fromkeys(leg.leg for leg in results.legs))
    systems = list(dict.fromkeys(leg.system for leg in results.legs))
    lines = ["| system | " + " | ".join(legs) + " |", "|---|" + "---:|" * len(legs)]
    for system in systems:
        cells = []
        for name in legs:
            leg = results.leg(system, name)
            if leg is None or leg.estimate.value is None:
                cells.append("could not score" if leg else "")
                continue
            interval = leg.estimate.interval
            spread = f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else ""
            cells.append(f"{leg.estimate.value:.3f}{spread}")
        title = visible(system).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _disarmed(text: str) -> str:
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t"} else text
