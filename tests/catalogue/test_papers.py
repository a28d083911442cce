"""The papers: complete, searchable, and their status derived."""

import json
import re
from datetime import date

import pytest

from trivet.catalogue import papers as module
from trivet.catalogue.papers import missing_methods, our_figure, papers, results_folder, search, status
from trivet.catalogue.registry import ROOMS
from trivet.errors import ConfigError


def test_all_papers_are_there_once():
    assert [paper.number for paper in papers()] == list(range(1, 33))
    assert len({paper.arxiv for paper in papers()}) == 32


@pytest.mark.parametrize("paper", papers(), ids=lambda paper: str(paper.number))
def test_each_paper_is_complete(paper):
    assert re.fullmatch(r"\d{4}\.\d{5}", paper.arxiv)
    year, month = int(paper.arxiv[:2]) + 2000, int(paper.arxiv[2:4])
    first_of_month = date(year, month, 1)
    # An id is given on submission, or a few days into the next month.
    assert 0 <= (first_of_month.year - paper.date.year) * 12 + first_of_month.month - paper.date.month <= 1
    assert len(paper.summary) > 100
    assert len(paper.claim) > 40
    assert paper.methods
    assert all(name.split("/")[0] in ROOMS for name in paper.methods)


def test_search_by_number_id_words():
    assert [paper.number for paper in search(("21",))] == [21]
    assert [paper.number for paper in search(("2402.06147",))] == [11]
    assert [paper.number for paper in search(("arXiv:2402.06147v3",))] == [11]
    assert [paper.number for paper in search(("https://arxiv.org/abs/2309.07124",))] == [21]
    honest = [paper.number for paper in search(("Honesty",))]
    assert honest[:2] == [2, 7]  # in the title, by number
    assert set(honest) > {2, 7, 10}
    assert [paper.number for paper in search(("merge", "experts"))] == [2]
    assert search(("no-such-word",)) == []
    assert len(search(())) == 32


def test_status_is_derived(tmp_path, monkeypatch):
    paper = papers()[20]
    monkeypatch.setattr(module, "results_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "names", list)
    assert (status(paper), missing_methods(paper)) == ("planned", paper.methods)
    monkeypatch.setattr(module, "names", lambda: list(paper.methods))
    assert status(paper) == "planned", "the methods alone are not enough"
    figure = {"paper": 21, "figure": "f", "setting": "s", "command": "c", "date": "2026-01-31"}
    (tmp_path / "21.json").write_text(json.dumps(figure))
    assert status(paper) == "works"
    assert our_figure(21).figure == "f"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "one JSON object"),
        ('{"paper": 21, "figur": "x"}', "unknown key 'figur'"),
        ('{"paper": 3, "figure": "f", "setting": "s", "command": "c", "date": "2026-01-31"}', "of paper 3"),
    ],
)
def test_a_wrong_figure_file_is_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(module, "results_folder", lambda: tmp_path)
    (tmp_path / "21.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        our_figure(21)


def test_every_figure_in_the_tree_is_valid():
    files = sorted(results_folder().glob("[0-9][0-9].json"))
    for path in files:
        assert our_figure(int(path.stem)) is not None
