"""The report of a study with 20,000 transcripts: time, memory and size.

Four simulated systems answer 5,000 prompts; the texts are real prompts joined at random to the length of
answers. The numbers go through the real analysis, which is timed beside the report. What is in the page is
compared with what went in before anything is timed. The report is built by a process of its own, so that its
peak memory is its own.
"""

import argparse
import base64
import gzip
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.common import real_prompts, report

from trivet.study.analysis import analyse
from trivet.study.measurements import Measurement
from trivet.study.report import REPORT, RESULTS, TRANSCRIPTS, Transcript, write_transcripts
from trivet.study.results import StudyResults, SystemInfo

SYSTEMS = {"base": 0.0, "plain prompt": 0.02, "constitution": 0.1, "best of 4": 0.08}
EVALUATIONS = (
    ("helpful", "instructions", ()),
    ("helpful", "questions", ()),
    ("over_refusal", "over_refusal", ("full_refusal", "compliance")),
    ("honest", "answerable", ("wrong", "correct")),
    ("honest", "unanswerable", ("wrong", "idk")),
    ("harmless", "harmless", ("compliance", "full_refusal")),
)
LIMIT_SECONDS, LIMIT_BYTES = 10.0, 2**30

_BUILD = """
import json, pathlib, resource, sys, time
start = time.perf_counter()
from trivet.study.report import write_report
path = write_report(pathlib.Path(sys.argv[1]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak}))
"""


def main(arguments: list[str]) -> None:
    """Build the report three times and print the best time and the largest memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    parser.add_argument("--transcripts", type=int, default=20_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = list(_answers(options.transcripts // len(SYSTEMS)))
        write_transcripts(folder / TRANSCRIPTS, rows)
        analysis_seconds = _analyse(rows, folder)
        builds = [_build(folder) for _ in range(3)]
        page = (folder / REPORT).read_text(encoding="utf-8")
        _check(page, rows)
    figures = {
        "transcripts": len(rows),
        "characters": sum(len(row.answer) + len(row.prompt) for row in rows),
        "seconds": min(build["seconds"] for build in builds),
        "peak_bytes": max(build["peak"] for build in builds),
        "page_bytes": len(page.encode("utf-8")),
        "analysis_seconds": analysis_seconds,
    }
    report("report", figures, {"seconds": (LIMIT_SECONDS, "at most"), "peak_bytes": (LIMIT_BYTES, "at most")})


def _answers(prompts: int) -> Iterator[Transcript]:
    """Every system's answer to each prompt, about 600 characters long, scored at random."""
    texts = real_prompts(100)
    random = np.random.default_rng(0)
    for number in range(prompts):
        evaluation, component, labels = EVALUATIONS[number % len(EVALUATIONS)]
        difficulty = random.uniform(0.3, 0.7)
        for system, shift in SYSTEMS.items():
            value = float(random.random() < difficulty + shift)
            words = " ".join(texts[index] for index in random.integers(0, len(texts), 5)).split()
            random.shuffle(words)
            yield Transcript(
                system=system,
                evaluation=evaluation,
                component=component,
                sample_id=f"{component}-{number}",
                epoch=1,
                prompt=f"{texts[number % len(texts)]} ({number})",
                answer=" ".join(words)[: int(random.integers(100, 1100))],
                value=value,
                label=labels[int(value)] if labels else None,
                judge="refusal" if labels and evaluation != "honest" else None,
                category=f"category {number % 12}",
                tokens=150,
                stop_reason="stop",
            )


def _analyse(rows: list[Transcript], folder: Path) -> float:
    measurements = [
        Measurement(
            system=row.system,
            evaluation=row.evaluation,
            component=row.component,
            sample_id=row.sample_id,
            epoch=row.epoch,
            cluster=row.sample_id,
            value=row.value,
            label=row.label,
            judge=row.judge,
        )
        for row in rows
    ]
    start = time.perf_counter()
    analysis = analyse(measurements, reference="base", seed=0)
    seconds = time.perf_counter() - start
    results = StudyResults.from_analysis(
        analysis,
        study="twenty thousand",
        seed=0,
        created="2026-01-31T12:00:00+00:00",
        systems=[
            SystemInfo(name=name, identity=f"{name}@000000000000", model_source=None, engine=None)
            for name in SYSTEMS
        ],
    )
    results.write(folder / RESULTS)
    return seconds


def _build(folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(folder)], check=True, capture_output=True, text=True
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _check(page: str, rows: list[Transcript]) -> None:
    """Every answer is in the page, letter for letter."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    held = json.loads(found[1]) if found else {}
    if "gzip" in held:
        held = json.loads(gzip.decompress(base64.b64decode(held["gzip"])))
    shown = {
        (group["id"], held["systems"][answer[0]]): (group["prompt"], answer[2])
        for group in held["groups"]
        for answer in group["answers"]
    }
    if shown != {(row.sample_id, row.system): (row.prompt, row.answer) for row in rows}:
        sys.exit("the page does not hold what went in")
