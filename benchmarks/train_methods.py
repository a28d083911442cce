"""Training methods on the embedded model with real pairs: what each costs and gains on held-out rows.

Each run is a rank-8 adapter with the settings below, on rows of hh-single-turn, TruthfulQA and the suite
``honest`` (data from ``TRIVET_DATA``); the reward model made first is the judge of those that need one
besides the shipped head. The figures are those of the model cards, with their intervals. DPO, MODPO and soups
are in ``examples/front.yaml``, LD-DPO and the rule Absolute in tests (``test_ld_dpo_direction.py``,
``test_honesty.py``), the three arms of direct RLHF in ``examples/direct_rlhf.yaml``.

``--out FOLDER`` keeps the adapters, and goes on where an earlier run ended. ``--only NAME`` runs one of them
and what it needs.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.common import report

MODEL = "smollm2-135m-instruct"
ADAPTER = {"r": 8, "lora_alpha": 16}
PAIRS = {
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 4,
    "per_device_train_batch_size": 4,
    "max_length": 320,
}
REINFORCE = {
    "beta": 0.1,
    "num_generations": 4,
    "per_device_train_batch_size": 16,
    "max_completion_length": 24,
    "learning_rate": 5e-4,
}


def runs(folder: Path, data: Path) -> dict[str, dict[str, Any]]:
    """By name, the method and its settings. Later runs use what earlier ones made."""
    hh, prompts = f"hh_single_turn/train_gt:{data / 'hh-single-turn'}", str(folder / "prompts.jsonl")
    common = {"model": MODEL, "adapter": ADAPTER, "seed": 1}
    pairs = {**common, "data": hh, "held_out": 100}
    asked = {**common, "data": prompts, "held_out": 24}
    questions = {**common, "data": "honest", "held_out": 40, "samples": 4, "max_tokens": 24}
    learn = {"max_steps": 14, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
    reward = str(folder / "reward_model")
    return {
        "reward_model": {
            **pairs,
            "method": "reward_model",
            "data": f"hh_single_turn/train_w2s:{data / 'hh-single-turn'}",
            "held_out": 150,
            "trainer": {**PAIRS, "per_device_train_batch_size": 8, "max_steps": 50},
        },
        "cost_model": {**pairs, "method": "cost_model", "trainer": {**PAIRS, "max_steps": 30}},
        "sft": {**pairs, "method": "sft", "trainer": {**PAIRS, "max_steps": 30}},
        "loss_weighting": {
            **pairs,
            "method": "loss_weighting",
            "objective": "harmless",
            "pairs": {"honest": f"truthfulqa_pairs:{data / 'truthfulqa'}"},
            "weights": [0.5, 0.5],
            "trainer": {**PAIRS, "max_steps": 30},
        },
        "honesty_confidence": {**questions, "method": "honesty_confidence", "trainer": learn},
        "honesty_multisample": {**questions, "method": "honesty_multisample", "trainer": learn},
        "infalign": {
            **asked,
            "method": "infalign",
            "judge": "harmlessness_head",
            "evaluation_judge": reward,
            "procedure": "worst_of_n",
            "n": 4,
            "samples": 24,
            "evaluation_samples": 12,
            "trainer": {**REINFORCE, "max_steps": 24},
        },
        "morlhf": {
            **asked,
            "method": "morlhf",
            "rewards": {"head": "harmlessness_head", "reward_model": reward},
            "weights": [0.5, 0.5],
            "trainer": {**REINFORCE, "max_steps": 16},
        },
        "direct_rlhf": {
            **asked,
            "method": "direct_rlhf",
            "judge": reward,
            "evaluation_judge": "harmlessness_head",
            "trainer": {**REINFORCE, "max_steps": 16},
        },
        "direct_rlhf, PPO": {
            **asked,
            "method": "direct_rlhf",
            "algorithm": "ppo",
            "judge": reward,
            "evaluation_judge": "harmlessness_head",
            "trainer": {**REINFORCE, "num_iterations": 2, "max_steps": 16},
        },
    }


def main(arguments: list[str]) -> None:
    """Train what is not there yet, print a table of figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train_methods", description=__doc__)
    parser.add_argument("--out", type=Path, help="where the adapters are kept")
    parser.add_argument("--only", help="one run, by name")
    options = parser.parse_args(arguments)
    if "TRIVET_DATA" not in os.environ:
        sys.exit("set TRIVET_DATA to a folder with hh-single-turn and truthfulqa")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.out or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        data = Path(os.environ["TRIVET_DATA"]).absolute()
        _write_prompts(folder / "prompts.jsonl", data)
        known = runs(folder, data)
        if options.only and options.only not in known:
            sys.exit(f"--only: one of {', '.join(known)}")
        chosen = [name for name in known if options.only in (None, name)]
        if options.only not in (None, "reward_model") and str(folder / "reward_model") in str(
            known[chosen[0]]
        ):
            chosen.insert(0, "reward_model")
        _train(chosen, known, folder)


def _train(chosen: Iterable[str], known: dict[str, dict[str, Any]], folder: Path) -> None:
    from trivet.train.running import train

    figures: dict[str, Any] = {}
    for name in chosen:
        settings = dict(known[name])
        method = settings.pop("method")
        print(f"{name} …", file=sys.stderr)
        place = folder / name.replace(", ", "_").lower()
        record = train(method, settings, place, say=lambda line: print(f"  {line}", file=sys.stderr)).record
        figures[name] = {key: record.get(key) for key in ("steps", "seconds", "metrics")}
        print(f"{name}: {record.get('steps')} steps, {record['seconds']:.0f} s")
        for figure, value in (record.get("metrics") or {}).items():
            print(f"  {figure}: {value}")
    report("train_methods", figures, {})


def _write_prompts(path: Path, data: Path) -> None:
    """64 short prompts of hh-single-turn, drawn by a seed."""
    from trivet.data.public import load_public

    rows = load_public("hh_single_turn", data / "hh-single-turn", split="train_gt").rows
    prompts = dict.fromkeys(row["prompt"][-1]["content"] for row in rows)
    short = [prompt for prompt in prompts if len(prompt) < 160]
    drawn = random.Random(3).sample(short, 64)
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in drawn), encoding="utf-8")
