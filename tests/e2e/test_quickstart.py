"""The quickstart as a user runs it: a real model, five systems, every suite that ships, one report."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"


def run(store: Path, minutes: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "trivet", "study", "run", str(EXAMPLE), "--store", str(store),
         "--minutes", str(minutes)],
        capture_output=True, text=True, check=False, timeout=1500,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"},
    )  # fmt: skip


@pytest.mark.model
@pytest.mark.full
@pytest.mark.timeout(1800)
def test_quickstart(tmp_path, embedded_model):
    first = run(tmp_path / "store", 4)
    assert first.returncode == 0, first.stderr
    report = tmp_path / "store" / "report.html"
    assert first.stdout.rstrip().endswith(str(report))
    assert report.stat().st_size < 2_000_000
    results = json.loads((tmp_path / "store" / "results.json").read_text())
    names = [system["name"] for system in results["systems"]]
    assert names == ["base", "plain_prompt", "constitution", "best_of_4", "merged"]
    for name in names:
        assert name in first.stdout
    assert results["failed"] == [] and results["marks"] == []
    assert {evaluation["name"] for evaluation in results["evaluations"]} == {
        "helpful", "honest", "harmless", "over_refusal", "capability",
    }  # fmt: skip
    scored = [leg for leg in results["legs"] if leg["estimate"]["value"] is not None]
    for leg in ("helpful", "harmless", "capability"):
        assert {row["system"] for row in scored if row["leg"] == leg} == set(names)
    costs = {cost["system"]: cost for cost in results["costs"]}
    assert costs["best_of_4"]["judge_calls"] == 4 and costs["base"]["judge_calls"] == 0

    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*") if p.name != "lock"}
    started = time.monotonic()
    again = run(tmp_path / "store", 4)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - started < 60
    assert again.stdout == first.stdout
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*") if p.name != "lock"}
    assert {p: t for p, t in after.items() if p.is_file()} == {p: t for p, t in files.items() if p.is_file()}
