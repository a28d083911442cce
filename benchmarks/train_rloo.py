"""A step of RLOO on the embedded model: where its time goes, and how fast it answers against transformers.

Each step draws 4 answers of at most 32 tokens to each of 4 real prompts (hh-single-turn) through the
generation engine, scores them with the shipped harmlessness head, takes their log-probabilities under the
reference (the model without its rank-8 adapter), and updates. That the engine answers with the weights that
are trained is seen by an answer's log-probability there and in the update (``engine_difference``, nats a
token). Figures are over all steps but the first. The peer is ``generate`` of transformers on two such batches
of the same prompts, before the training and after it; the faster of the two counts.

``--steps 3`` shortens it.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import report

PROMPTS, ANSWERS, TOKENS = 4, 4, 32
PEER_BATCHES = 2  # `generate` computes a prompt again for each of its answers
PARTS = ("generation", "scoring", "update")
TOLERANCE = 1e-2
LIMITS = {"times_transformers": (1.0, "at least")}


def main(arguments: list[str]) -> None:
    """Run the steps, print where the time went and the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train_rloo", description=__doc__)
    parser.add_argument("--steps", type=int, default=9, help="the first is not counted")
    options = parser.parse_args(arguments)
    if "TRIVET_DATA" not in os.environ:
        sys.exit("set TRIVET_DATA to a folder with hh-single-turn")
    if options.steps < 2:
        sys.exit("--steps: the first is not counted, so 2 at least")
    with tempfile.TemporaryDirectory() as folder:
        figures = _figures(Path(folder), options.steps)
    print("| part of a step | seconds | share |\n|---|---:|---:|")
    for part in PARTS:
        share = figures[f"share_{part}"]
        print(f"| {part} | {share * figures['seconds']:.2f} | {share:.2f} |")
    if figures["engine_difference"] > TOLERANCE:
        sys.exit(f"the engine is {figures['engine_difference']:.2e} nats a token from the trained weights")
    report("train_rloo", figures, LIMITS)


def _figures(folder: Path, steps: int) -> dict[str, Any]:
    from transformers import TrainerCallback

    from trivet._validation import validate
    from trivet.judges import resolve
    from trivet.train.morlhf import Config, WeightedReward
    from trivet.train.rloo_method import prepared, rloo_arguments, rloo_trainer
    from trivet.train.running import TrainingContext

    settings = {
        "model": "smollm2-135m-instruct",
        "data": f"hh_single_turn/train:{os.environ['TRIVET_DATA']}/hh-single-turn",
        "rewards": {"harmless": "harmlessness_head"},
        "weights": [1.0],
        "adapter": {"r": 8, "lora_alpha": 16},
        "trainer": {
            "beta": 0.1,
            "num_generations": ANSWERS,
            "per_device_train_batch_size": PROMPTS * ANSWERS,
            "max_completion_length": TOKENS,
            "learning_rate": 1e-5,
            "max_steps": steps,
            "save_strategy": "no",
        },
    }
    config = validate(Config, settings, where="benchmark")
    context = TrainingContext(folder, folder, Path.cwd(), "benchmark")
    entries: list[dict[str, Any]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_log(self, *arguments: Any, logs: Any = None, **others: Any) -> None:
            if "loss" in logs:
                entries.append({**logs, "at": time.perf_counter()})

    with prepared(config, context, rloo_arguments(config, context)) as made:
        judge = resolve("harmlessness_head")
        trainer = rloo_trainer(made, WeightedReward({"harmless": judge}, {"harmless": 1.0}), made.prompts)
        trainer.add_callback(Clock())
        prompts = [list(one.tokens) for one in made.prompts[: PROMPTS * PEER_BATCHES]]
        peer = [_peer(prompts, made.trainee.padding)]
        context.fit(trainer)
        peer.append(_peer(prompts, made.trainee.padding))
    return _summary(entries, peer)


def _summary(entries: Sequence[dict[str, Any]], peer: Sequence[float]) -> dict[str, Any]:
    """Figures of the steps after the first; a step ends when it is logged."""
    counted = entries[1:]
    seconds = [after["at"] - before["at"] for before, after in zip(entries, counted, strict=False)]
    speeds = [
        float(one["length"]) * PROMPTS * ANSWERS / (float(one["share_generation"]) * spent)
        for one, spent in zip(counted, seconds, strict=True)
    ]
    speed = statistics.median(speeds)
    return {
        "seconds": statistics.median(seconds),
        **{
            f"share_{part}": sum(
                float(one[f"share_{part}"]) * spent for one, spent in zip(counted, seconds, strict=True)
            )
            / sum(seconds)
            for part in PARTS
        },
        "tokens_a_second": speed,
        "tokens_a_second_of_transformers": max(peer),
        "times_transformers": speed / max(peer),
        "length": statistics.fmean(float(one["length"]) for one in counted),
        "engine_difference": max(float(one["engine_difference"]) for one in entries),
    }


@torch.no_grad()
def _peer(prompts: Sequence[list[int]], padding: int) -> float:
    """Tokens a second of ``generate``: the same batches, prompts padded on the left; end tokens count."""
    from transformers import AutoModelForCausalLM

    from trivet.models import embedded

    model = AutoModelForCausalLM.from_pretrained(embedded.folder(), dtype=torch.float32)
    end = model.generation_config.eos_token_id
    ends = torch.tensor(end if isinstance(end, list) else [end])
    count, started = 0, time.perf_counter()
    for start in range(0, len(prompts), PROMPTS):
        batch = prompts[start : start + PROMPTS]
        width = max(map(len, batch))
        tokens = torch.tensor([[padding] * (width - len(one)) + one for one in batch])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in batch])
        made = model.generate(
            tokens,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=TOKENS,
            num_return_sequences=ANSWERS,
            pad_token_id=padding,
        )[:, width:]
        ended = torch.isin(made, ends).long().cumsum(1)
        count += int(((ended == 0) | ((ended == 1) & torch.isin(made, ends))).sum())
    return count / (time.perf_counter() - started)
