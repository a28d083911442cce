"""``trivet papers``, ``trivet methods`` and ``trivet env`` as a user calls them."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from trivet.catalogue import names
from trivet.cli import root


def invoke(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(root, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def test_papers_lists_all_of_them():
    rows = json.loads(invoke("papers", "--json"))
    assert len(rows) == 32
    assert {row["status"] for row in rows} <= {"works", "planned"}
    assert "32 papers" in invoke("papers")


def test_one_hit_is_a_card_with_the_claim_and_our_figure():
    card = invoke("papers", "rewinds")
    assert card.startswith("21. RAIN")
    assert "https://arxiv.org/abs/2309.07124" in card
    assert "82 to 97 %" in " ".join(card.split())
    assert "Ours" in card
    assert invoke("papers", "2309.07124") == card


def test_our_figure_stands_beside_the_claim(tmp_path, monkeypatch):
    monkeypatch.setattr("trivet.catalogue.papers.results_folder", lambda: tmp_path)
    figure = {"paper": 21, "figure": "+7 points [1, 13]", "setting": "135M model", "command": "make bench"}
    (tmp_path / "21.json").write_text(json.dumps({**figure, "date": "2026-01-31"}))
    card = " ".join(invoke("papers", "21").split())
    assert "Ours +7 points [1, 13] (135M model; 2026-01-31) again: make bench" in card


def test_no_hit_says_what_to_do():
    assert "no paper matches 'zyx'" in invoke("papers", "zyx", code=2)


def test_methods_lists_what_is_registered():
    rows = json.loads(invoke("methods", "--json"))
    assert [row["name"] for row in rows] == names()
    assert all(row["summary"] for row in rows)


@pytest.mark.parametrize("name", names())
def test_methods_show(name):
    data = json.loads(invoke("methods", "show", name, "--json"))
    text = invoke("methods", "show", name)
    for setting in data["settings"]:
        assert setting["name"] in text


def test_methods_with_an_unknown_room_or_name():
    assert "did you mean 'decode'" in invoke("methods", "--room", "decod", code=2)
    assert "unknown method 'decode/nothing_like_it'" in invoke(
        "methods", "show", "decode/nothing_like_it", code=2
    )


def test_env_names_versions_machine_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path))
    facts = json.loads(invoke("env", "--json"))
    assert facts["packages"]["torch"]
    assert facts["cache"] == {"folder": str(tmp_path), "embedded_model": None, "source": None}
    assert "embedded model  absent" in invoke("env")


def test_a_reader_that_goes_away_is_not_an_error():
    command = [sys.executable, "-m", "trivet", "papers", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
