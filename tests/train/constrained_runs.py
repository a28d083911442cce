"""What tests of HC-RLHF share: prompts that we wrote, and the report of a run."""

import json
from pathlib import Path
from typing import Any

WORDS = ("red", "blue", "green", "honest", "helpful", "harmless", "river", "capital")


def write_prompts(path: Path, words: tuple[str, ...] = WORDS, count: int = 4) -> None:
    rows = [{"prompt": f"What is {word} in place {place}?"} for word in words for place in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "safety_test.json").read_text()))
