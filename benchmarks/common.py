"""What the benchmarks share: real prompts, one form of result."""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import psutil


def real_prompts(count: int, longest: int = 1500) -> list[str]:
    """The first ``count`` prompts of at most ``longest`` characters of a real data set.

    Self-Instruct's seed tasks from ``TRIVET_DATA`` where it is set, otherwise the suite ``instructions``.
    """
    folder = os.environ.get("TRIVET_DATA")
    if folder:
        lines = (
            (Path(folder) / "self-instruct-seeds/seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
        )
        rows = [json.loads(line) for line in lines]
        texts = [f"{row['instruction']}\n\n{row['instances'][0]['input']}".strip() for row in rows]
    else:
        from trivet.data.suites import load_suite

        texts = [row["prompt"] for row in load_suite("instructions")]
    chosen = [text for text in texts if len(text) <= longest][:count]
    if len(chosen) < count:
        sys.exit(f"only {len(chosen)} prompts are there, {count} are needed")
    return chosen


def machine() -> dict[str, Any]:
    """The machine, as far as it matters for a figure."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"processor": model, "cores": psutil.cpu_count(logical=False), "load": os.getloadavg()[0]}


def report(name: str, figures: dict[str, Any], limits: dict[str, tuple[float, str]]) -> None:
    """Print each limited figure beside its limit, then one line of JSON.

    ``limits``: figure → (limit, "at least" or "at most").
    """
    for figure, (limit, sense) in limits.items():
        if figure in figures:
            achieved = figures[figure]
            met = achieved >= limit if sense == "at least" else achieved <= limit
            print(f"{figure}: {achieved:.3g} ({sense} {limit:g}: {'met' if met else 'not met'})")
    print(json.dumps({"benchmark": name, **figures, "machine": machine()}))
