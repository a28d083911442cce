"""LD-DPO against DPO on the embedded model: how long answers become, and accuracy on held-out pairs.

Real pairs (hh-single-turn from ``TRIVET_DATA``) whose chosen answer is at least half as long again as the
rejected one, 28 steps of 4 each, alpha 0.3, a rank-8 adapter. Lengths are of greedy answers to 48 prompts of
the test split, at most 96 tokens; differences are paired.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import report

TRAINED, HELD_OUT, PROMPTS, MOST_TOKENS = 112, 40, 48, 96
MODEL = "smollm2-135m-instruct"


def of(pair: dict[str, Any], side: str) -> str:
    return str(pair[side][-1]["content"])


def length_biased_pairs(folder: Path, count: int) -> list[dict[str, Any]]:
    """Short pairs whose chosen answer is at least half as long again as the rejected one, drawn by a seed.

    In the whole set the chosen answer is the shorter one more often than not, so that DPO on it does not
    lengthen answers and there is nothing to take away.
    """
    from trivet.data.public import load_public

    biased = [
        {side: pair[side] for side in ("prompt", "chosen", "rejected")}
        for pair in load_public("hh_single_turn", folder, split="train").rows
        if 1.5 * len(of(pair, "rejected")) < len(of(pair, "chosen")) < 300
    ]
    return random.Random(0).sample(biased, count)


def lengths(model: str, prompts: Path) -> Any:
    """Tokens of the greedy answer to each prompt."""
    from trivet.models.engines import close_engines
    from trivet.systems import System
    from trivet.systems.answers_file import answer_all, read_questions

    questions, found = read_questions(prompts), dict[str, int]()
    answer_all(
        System.load({"model": model}),
        questions,
        window=32,
        seed=0,
        options={"max_tokens": MOST_TOKENS},
        on_answer=lambda question, answer: found.__setitem__(question.key, answer.usage.completion_tokens),
    )
    close_engines()
    return np.array([found[question.key] for question in questions])


def main(arguments: list[str]) -> None:
    """Train both and print the figures."""
    argparse.ArgumentParser(prog="python -m benchmarks train_length", description=__doc__).parse_args(
        arguments
    )
    if "TRIVET_DATA" not in os.environ:
        sys.exit("set TRIVET_DATA to a folder with hh-single-turn")
    with tempfile.TemporaryDirectory() as folder:
        report("train_length", _figures(Path(folder), Path(os.environ["TRIVET_DATA"]) / "hh-single-turn"), {})


def _figures(folder: Path, data: Path) -> dict[str, Any]:
    from scipy.stats import ttest_rel

    from trivet.data.public import load_public
    from trivet.train.running import train

    pairs = length_biased_pairs(data, TRAINED + HELD_OUT)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    asked = load_public("hh_single_turn", data, split="test").rows[:PROMPTS]
    prompts = folder / "prompts.jsonl"
    rows = [json.dumps({"prompt": of(pair, "prompt")}) + "\n" for pair in asked]
    prompts.write_text("".join(rows), encoding="utf-8")
    settings = {
        "model": MODEL,
        "data": str(folder / "pairs.jsonl"),
        "held_out": HELD_OUT,
        "adapter": {"r": 8, "lora_alpha": 16},
        "seed": 1,
        "trainer": {
            "learning_rate": 5e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 4,
            "max_steps": TRAINED // 4,
            "per_device_train_batch_size": 4,
        },
    }
    tokens: dict[str, Any] = {"base": lengths(MODEL, prompts)}
    figures: dict[str, Any] = {"tokens, base": float(tokens["base"].mean())}
    methods: dict[str, dict[str, Any]] = {"dpo": {}, "ld_dpo": {"alpha": 0.3}}
    for method, own in methods.items():
        done = train(
            method, {**settings, **own}, folder / method, say=lambda line: print(line, file=sys.stderr)
        )
        tokens[method] = lengths(str(done.folder), prompts)
        figures[f"tokens, {method}"] = float(tokens[method].mean())
        figures |= {f"{name}, {method}": value for name, value in done.record["metrics"].items()}
    change = ttest_rel(tokens["ld_dpo"], tokens["dpo"]).confidence_interval()
    figures["ld_dpo minus dpo, tokens"] = float((tokens["ld_dpo"] - tokens["dpo"]).mean())
    figures["ld_dpo minus dpo, 95 % interval"] = [float(change.low), float(change.high)]
    for name, value in figures.items():
        print(f"{name}: {value}")
    return figures
