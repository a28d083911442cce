"""A front of five weights by MODPO: what it costs over its training alone, and what its shortcuts lose.

Pairs of hh-single-turn, the answer's length as the second objective, a rank-8 adapter on the embedded model.
The first run has no held-out pairs: its whole time over the time in training steps is the figure with the
limit, since the steps of a weight are the passes that cannot be shared. Then the same front is trained three
times with held-out pairs, plainly, with ``warm_start`` and with ``top_layers``, and the loss on them stands
beside the time. Losses of different weights cannot be compared, those of one weight can.

``--steps 6`` shortens it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import report

WEIGHTS = [[0.9, 0.1], [0.7, 0.3], [0.5, 0.5], [0.3, 0.7], [0.1, 0.9]]
BATCH, EPOCHS, HELD_OUT, TOP_LAYERS = 4, 2, 24, 6
LIMITS = {"over_training": (1.1, "at most")}


def main(arguments: list[str]) -> None:
    """Train the fronts and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train_front", description=__doc__)
    parser.add_argument("--steps", type=int, default=12, help="of each weight")
    options = parser.parse_args(arguments)
    if "TRIVET_DATA" not in os.environ:
        sys.exit("set TRIVET_DATA to a folder with hh-single-turn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = _settings(folder, options.steps)
        alone, seconds = _front(folder / "alone", settings)
        training = sum(point["training_seconds"] for point in alone)
        figures: dict[str, Any] = {
            "over_training": seconds / training,
            "seconds": seconds,
            "training_seconds": training,
        }
        runs: dict[str, dict[str, Any]] = {
            "plain": {},
            "warm_start": {"warm_start": True},
            "top_layers": {"top_layers": TOP_LAYERS},
        }
        for name, own in runs.items():
            points, took = _front(folder / name, {**settings, "held_out": HELD_OUT, **own})
            figures[f"{name}_training_seconds"] = sum(point["training_seconds"] for point in points)
            figures[f"{name}_losses"] = [round(point["metrics"]["held-out loss"], 4) for point in points]
            print(f"{name}: {took:.0f} s; held-out loss by weight {figures[f'{name}_losses']}")
    report("train_front", figures, LIMITS)


def _front(folder: Path, settings: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    from trivet.train.running import train

    started = time.perf_counter()
    train("modpo", settings, folder, say=lambda line: print(f"  {line}", file=sys.stderr))
    seconds = time.perf_counter() - started
    points: list[dict[str, Any]] = json.loads((folder / "front.json").read_text(encoding="utf-8"))["points"]
    return points, seconds


def _settings(folder: Path, steps: int) -> dict[str, Any]:
    """The first pairs of the set, as many as two passes of the steps see, and those that are held out."""
    from trivet.data.public import load_public

    rows = load_public(
        "hh_single_turn", Path(os.environ["TRIVET_DATA"]) / "hh-single-turn", split="train"
    ).rows
    pairs = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    path = folder / "pairs.jsonl"
    count = steps * BATCH // EPOCHS
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs[: count + HELD_OUT]), encoding="utf-8")
    return {
        "model": "smollm2-135m-instruct",
        "data": str(path),
        "objective": "harmless",
        "margins": {"short": {"length": "tokens", "scale": 0.01}},
        "weights": WEIGHTS,
        "adapter": {"r": 8, "lora_alpha": 16},
        "trainer": {"learning_rate": 5e-4, "max_steps": steps, "per_device_train_batch_size": BATCH},
    }
