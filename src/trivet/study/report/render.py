"""Results and transcripts → one HTML file that opens offline and runs nothing but its own script."""

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trivet import __version__
from trivet._files import write_text
from trivet.study.report import numbers, packing, tables
from trivet.study.report.characters import visible
from trivet.study.report.transcripts import Transcript, read_transcripts
from trivet.study.report.view import View
from trivet.study.results import StudyResults

RESULTS = "results.json"
TRANSCRIPTS = "transcripts.jsonl"
REPORT = "report.html"


def write_report(folder: Path, target: Path | None = None) -> Path:
    """Build the report of the study whose ``results.json`` and ``transcripts.jsonl`` lie in ``folder``.

    Args:
        target: the file to write; by default ``report.html`` in the same folder.

    Raises:
        StoreError: the results are missing or damaged, or the file cannot be written.
    """
    folder = Path(folder)
    results = StudyResults.read(folder / RESULTS)
    path = folder / TRANSCRIPTS
    transcripts = read_transcripts(path) if path.is_file() else iter(())
    target = folder / REPORT if target is None else Path(target)
    write_text(target, render(results, transcripts))
    return target


def render(results: StudyResults, transcripts: Iterable[Transcript] = ()) -> str:
    """The report as HTML. Texts of models, data and configurations are escaped, unseen characters shown."""
    view = View(results)
    style, script = _asset("report.css"), _asset("report.js")
    page = _environment().get_template("report.html.j2")
    return page.render(
        results=results,
        view=view,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        transcripts=packing.pack(packing.group(transcripts, view.names)),
        csv=tables.as_csv(results),
        markdown=tables.as_markdown(results),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trivet.study.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(
        number=numbers.number,
        percent=numbers.percent,
        points=numbers.points,
        p_value=numbers.p_value,
        interval=numbers.interval,
        multiple=numbers.multiple,
        size=numbers.size,
        share=numbers.share,
        moment=numbers.moment,
        words=lambda text: str(text).replace("_", " "),
        yaml=_yaml,
    )
    return environment


def _finalize(value: Any) -> Any:
    """Applied to each value that the template prints, before it is escaped."""
    return value if isinstance(value, Markup) else visible(str(value))


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88)


def _asset(name: str) -> str:
    return (files("trivet.study.report") / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The content-security-policy: this style, this script, nothing from anywhere else."""
    parts = ["default-src 'none'", f"style-src '{_digest(style)}'", f"script-src '{_digest(script)}'"]
    return "; ".join([*parts, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
