"""A step of direct preference optimisation: ours against TRL's, each in a process of its own.

Full fine-tuning of the embedded model in float32 on the first 32 pairs of real data (hh-single-turn), 4 pairs
a step, in their order; the reference's log-probabilities are computed before the clock starts in both arms.
TRL runs once as it is and once padding-free, and the better of the two counts. The losses of every step are
compared first. Processes go in the order A B C C B A; a figure is the median over the steps of both runs,
without the first step of each. Memory is the peak of the process.

``--steps 8 --once`` shortens it. The share of the matrix-product peak counts the products that a step needs:
6 for each weight and token of the decoder, and 6 for each weight of the output layer and answer token.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import report

ARMS = ("trivet", "trl", "trl_padding_free")
PAIRS, BATCH = 32, 4
LIMITS = {
    "times_trl": (2.5, "at least"),
    "memory_over_trl": (0.5, "at most"),
    "share_of_matrix_product_peak": (0.6, "at least"),
}
TOLERANCE = 1e-4  # of a loss, after steps that differ in rounding


def main(arguments: list[str]) -> None:
    """Run the arms and print the figures, or one arm for a process of this benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train", description=__doc__)
    parser.add_argument("--steps", type=int, default=9, help="steps of a run, the first not counted")
    parser.add_argument("--once", action="store_true", help="one run an arm")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if "TRIVET_DATA" not in os.environ:
        sys.exit("set TRIVET_DATA to a folder with hh-single-turn")
    if options.arm:
        print(json.dumps(_run(options.arm, options.steps)))
        return
    order = ARMS if options.once else (*ARMS, *reversed(ARMS))
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for arm in order:
        print(f"{arm} …", file=sys.stderr)
        runs[arm].append(_process(arm, options.steps))
    _compare(runs)
    seconds = {arm: statistics.median(t for run in runs[arm] for t in run["seconds"][1:]) for arm in ARMS}
    memory = {arm: min(run["peak_bytes"] for run in runs[arm]) for arm in ARMS}
    best = min(ARMS[1:], key=lambda arm: seconds[arm])
    ours = runs["trivet"][0]
    achieved = statistics.fmean(ours["operations"][1:]) / seconds["trivet"]
    figures = {
        "times_trl": seconds[best] / seconds["trivet"],
        "memory_over_trl": memory["trivet"] / memory[best],
        "share_of_matrix_product_peak": achieved / max(run["peak_flops"] for run in runs["trivet"]),
        "best_of_trl": best,
        "seconds": seconds,
        "peak_bytes": memory,
        "gigaflops": achieved / 1e9,
        "losses": ours["losses"],
    }
    report("train", figures, LIMITS)


def _process(arm: str, steps: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks",
        "train",
        "--arm",
        arm,
        "--steps",
        str(steps),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{arm} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _compare(runs: dict[str, list[dict[str, Any]]]) -> None:
    expected = runs["trl"][0]["losses"]
    for arm, found in runs.items():
        for run in found:
            apart = max(abs(a - b) for a, b in zip(run["losses"], expected, strict=True))
            if apart > TOLERANCE:
                sys.exit(f"the losses of {arm} are up to {apart:.2e} from TRL's: {run['losses']} {expected}")


def _run(arm: str, steps: int) -> dict[str, Any]:
    """Train ``steps`` steps; seconds of each, losses, the peak of this process's memory."""
    import resource

    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.dpo_config import DPOConfig

    from trivet.models import embedded
    from trivet.train.preferences import read_preferences

    folder = embedded.folder()
    if folder is None:
        sys.exit("the embedded model is not there; run: trivet models pull smollm2-135m-instruct")
    source = f"hh_single_turn/train:{os.environ['TRIVET_DATA']}/hh-single-turn"
    pairs = list(read_preferences(source, base=Path.cwd()).pairs[:PAIRS])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seconds: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *arguments: Any, **others: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *arguments: Any, **others: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

        def on_log(self, *arguments: Any, logs: Any = None, **others: Any) -> None:
            losses.extend([float(logs["loss"])] if "loss" in logs else [])

    with tempfile.TemporaryDirectory() as output:
        settings = DPOConfig(
            output_dir=output, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            logging_steps=1, save_strategy="no", per_device_train_batch_size=BATCH, max_steps=steps,
            learning_rate=1e-6, disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
            precompute_ref_log_probs=arm != "trivet", padding_free=arm == "trl_padding_free",
        )  # fmt: skip
        make = _ours if arm == "trivet" else _theirs
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        trainer, operations = make(model, settings, pairs, tokenizer)
        trainer._get_train_sampler = lambda *others: SequentialSampler(trainer.train_dataset)
        trainer.add_callback(Clock())
        trainer.train()
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    count = len(operations)
    return {
        "seconds": seconds,
        "losses": losses,
        "peak_bytes": peak,
        "operations": [operations[step % count] for step in range(steps)] if count else [],
        "peak_flops": _matrix_product_peak() if arm == "trivet" else None,
    }


def _ours(model: Any, settings: Any, pairs: list[Any], tokenizer: Any) -> tuple[Any, list[float]]:
    from trivet.train.preference_trainer import (
        Objective,
        PairCollator,
        PreferenceExample,
        PreferenceTrainer,
    )
    from trivet.train.reference import reference_logprobs
    from trivet.train.scoring import packs, score_answers
    from trivet.train.tokenising import tokenise_pairs

    examples = tokenise_pairs(pairs, tokenizer, max_length=settings.max_length).examples
    score_answers(model)
    packed = packs(model, tokenizer.vocab_size)
    known = reference_logprobs(model, examples, identity="benchmark", packed=packed, padding=0)
    rows = [PreferenceExample(one, values) for one, values in zip(examples, known, strict=True)]
    trainer = PreferenceTrainer(
        model=model,
        args=settings,
        train_dataset=rows,
        data_collator=PairCollator(packed, 0),
        processing_class=tokenizer,
        objective=Objective(beta=settings.beta),
    )
    output = model.get_output_embeddings().weight.numel()
    decoder = sum(p.numel() for p in model.parameters() if p.dim() > 1) - output
    operations = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        answers = sum(len(answer) for example in batch for answer in example.answers)
        operations.append(6.0 * decoder * sum(one.length for one in batch) + 6.0 * output * answers)
    return trainer, operations


def _theirs(model: Any, settings: Any, pairs: list[Any], tokenizer: Any) -> tuple[Any, list[float]]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl.trainer.dpo_trainer import DPOTrainer

    reference = AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32)
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=settings,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    trainer.ref_model = None  # its log-probabilities are columns of the data set now
    return trainer, []


def _matrix_product_peak() -> float:
    """Floating-point operations a second of the best of many products of this model's size."""
    left, right = torch.randn(2048, 1536), torch.randn(1536, 1536)
    best = 0.0
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2 * left.numel() * right.shape[1] / (time.perf_counter() - started))
    return best
