"""Training methods on the embedded model with real pairs: what each costs and gains on held-out rows.

Each run is a rank-8 adapter with the settings below, on rows of hh-single-turn, TruthfulQA and the suite
``honest`` (data from ``TRIVET_DATA``); the reward model made first is the judge of those that need one
besides the shipped head. The figures are those of the model cards, with their intervals. DPO, MODPO and soups
are in ``examples/front.yaml``, LD-DPO in ``train_length``, the rule Absolute in ``test_honesty.py``.

At the end the arms of direct RLHF are compared: the model as it was, fine-tuned, and after reinforcement
learning by RLOO and by PPO. 60 prompts that none of them saw are answered and scored by the judge that
trained two of them and by one that did not; the surprise at plain English text (WikiText-2) shows what is
forgotten. The instruct model stands in for a base model.

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
    asked = {**common, "data": prompts, "held_out": 20}
    questions = {
        **common,
        "data": str(folder / "questions.jsonl"),
        "held_out": 40,
        "samples": 4,
        "max_tokens": 24,
    }
    learn = {"max_steps": 14, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
    reward = str(folder / "reward_model")
    return {
        "reward_model": {
            **pairs,
            "method": "reward_model",
            "data": f"hh_single_turn/train_w2s:{data / 'hh-single-turn'}",
            "held_out": 150,
            "trainer": {**PAIRS, "per_device_train_batch_size": 8, "max_steps": 40},
        },
        "cost_model": {**pairs, "method": "cost_model", "trainer": {**PAIRS, "max_steps": 20}},
        "sft": {**pairs, "method": "sft", "trainer": {**PAIRS, "max_steps": 20}},
        "loss_weighting": {
            **pairs,
            "method": "loss_weighting",
            "objective": "harmless",
            "pairs": {"honest": f"truthfulqa_pairs:{data / 'truthfulqa'}"},
            "weights": [0.5, 0.5],
            "trainer": {**PAIRS, "max_steps": 20},
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
            "samples": 20,
            "evaluation_samples": 8,
            "trainer": {**REINFORCE, "max_steps": 20},
        },
        "morlhf": {
            **asked,
            "method": "morlhf",
            "rewards": {"head": "harmlessness_head", "reward_model": reward},
            "weights": [0.5, 0.5],
            "trainer": {**REINFORCE, "max_steps": 12},
        },
        "direct_rlhf": {
            **asked,
            "method": "direct_rlhf",
            "judge": reward,
            "evaluation_judge": "harmlessness_head",
            "trainer": {**REINFORCE, "max_steps": 12},
        },
        "direct_rlhf, PPO": {
            **asked,
            "method": "direct_rlhf",
            "algorithm": "ppo",
            "judge": reward,
            "evaluation_judge": "harmlessness_head",
            "trainer": {**REINFORCE, "num_iterations": 2, "max_steps": 12},
        },
        "high_confidence_rlhf": {
            **asked,
            "method": "high_confidence_rlhf",
            "data": f"hh_single_turn/test:{data / 'hh-single-turn'}",  # no judge was fitted on it
            "held_out": 20,
            "safety": 120,
            "reward": reward,
            "cost": "harmlessness_head",
            "cost_low": 2.0,
            "cost_high": -2.0,
            "limit": 0.5,
            "delta": 0.05,
            "candidates": 2,
            "ledger": str(folder / "ledger"),
            "trainer": {**REINFORCE, "beta": 0.02, "max_steps": 12},
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
        _write_questions(folder / "questions.jsonl")
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
    if {"sft", "direct_rlhf", "direct_rlhf, PPO"} <= figures.keys():
        figures["arms"] = _arms(folder, Path(os.environ["TRIVET_DATA"]))
    report("train_methods", figures, {})


def _arms(folder: Path, data: Path) -> dict[str, Any]:
    """Scores by two judges and the surprise at plain text, of four models; differences from the first."""
    import numpy as np
    from scipy import stats

    from trivet.judges import resolve

    questions, texts = _unseen(folder, data)
    judges = {"reward_model": resolve(str(folder / "reward_model")), "head": resolve("harmlessness_head")}
    arms = {"as it was": MODEL, "fine-tuned": "sft", "RLOO": "direct_rlhf", "PPO": "direct_rlhf_ppo"}
    found: dict[str, Any] = {}
    values: dict[str, dict[str, Any]] = {}
    for arm, place in arms.items():
        chats, surprise = _answers(MODEL if place == MODEL else str(folder / place), questions, texts)
        scores = {
            f"score by {name}": np.array([one.value for one in judge.score(chats)], dtype=float)
            for name, judge in judges.items()
        }
        values[arm] = {**scores, "nats a character of plain text": np.array(surprise)}
        first = values["as it was"]
        found[arm] = {}
        for name, own in values[arm].items():
            change = stats.ttest_rel(own, first[name], nan_policy="omit").confidence_interval()
            found[arm][name] = float(np.nanmean(own))
            if arm != "as it was":
                found[arm][f"{name}, change"] = [float(change.low), float(change.high)]
        print(f"arm {arm}: {json.dumps(found[arm])}")
    return found


def _answers(model: str, questions: Any, texts: list[str]) -> tuple[list[Any], list[float]]:
    """A model's sampled answers as chats, and its nats a character of each text."""
    import asyncio

    from trivet.models.engines import close_engines
    from trivet.systems import System
    from trivet.systems.answers_file import answer_all

    system = System.load({"model": model, "sampling": {"temperature": 1.0}})
    found: dict[str, Any] = {}

    def keep(question: Any, answer: Any) -> None:
        found[question.key] = [*question.chat, {"role": "assistant", "content": answer.text}]

    answer_all(system, questions, window=32, seed=0, options={"max_tokens": 24}, on_answer=keep)

    async def surprise(text: str) -> float:
        begun = text.find(" ", 80)
        (likelihood,) = await system.log_likelihoods(text[:begun], [text[begun:]])
        return -likelihood / len(text[begun:])

    async def all_of_them() -> list[float]:
        return await asyncio.gather(*map(surprise, texts))

    surprises = asyncio.run(all_of_them())
    close_engines()
    return [found[question.key] for question in questions], surprises


def _unseen(folder: Path, data: Path) -> tuple[Any, list[str]]:
    """60 prompts of the test split, and 40 paragraphs of WikiText-2."""
    from trivet.data.public import load_public
    from trivet.systems.answers_file import read_questions

    rows = load_public("hh_single_turn", data / "hh-single-turn", split="test").rows
    prompts = [text for row in rows if len(text := row["prompt"][-1]["content"]) < 160]
    path = folder / "unseen.jsonl"
    drawn = random.Random(4).sample(list(dict.fromkeys(prompts)), 60)
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in drawn), encoding="utf-8")
    lines = (data / "wikitext2" / "valid.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.strip()[:600] for line in lines if len(line) > 600]
    return read_questions(path), random.Random(5).sample(texts, 40)


def _write_prompts(path: Path, data: Path) -> None:
    """56 short prompts of hh-single-turn, drawn by a seed."""
    from trivet.data.public import load_public

    rows = load_public("hh_single_turn", data / "hh-single-turn", split="train_gt").rows
    prompts = dict.fromkeys(row["prompt"][-1]["content"] for row in rows)
    short = [prompt for prompt in prompts if len(prompt) < 160]
    drawn = random.Random(3).sample(short, 56)
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in drawn), encoding="utf-8")


def _write_questions(path: Path) -> None:
    """48 questions of the suite ``honest`` that can be answered, and 48 that cannot."""
    from trivet.data.suites import suite_rows

    rows = suite_rows("honest")
    chosen = [[row for row in rows if row["answerable"] is known][:48] for known in (True, False)]
    kept = [
        {name: row[name] for name in ("prompt", "answers", "answerable")} for part in chosen for row in part
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
