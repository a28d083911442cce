"""An answer does not depend on what else is in the batch: real model, real prompts, greedy.

Batching changes float32 logits by a few 1e-5, so texts may part where the two best tokens are a near-tie;
nowhere else.
"""

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trivet.models.engine import Completion, Request
from trivet.models.names import resolve_model
from trivet.models.operations import Extend, ProgramContext
from trivet.models.torch_engine import TorchEngine

NEAR_TIE = 1e-3


@pytest.fixture(scope="module")
def engine(embedded_model: str) -> Iterator[TorchEngine]:
    engine = TorchEngine(resolve_model(embedded_model))
    yield engine
    engine.close()


def real_prompts(folder: Path, count: int) -> list[str]:
    def rows(path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / path).read_text(encoding="utf-8").splitlines()]

    seeds = [row["instruction"] for row in rows("self-instruct-seeds/seed_tasks.jsonl")]
    questions = [row["turns"][0] for row in rows("mt-bench/question.jsonl")]
    return [text for text in seeds + questions if len(text) < 1000][:count]


def greedy(context: ProgramContext) -> Any:
    yield Extend(context.prompt, context.max_tokens, top_logprobs=2, commit=True)


def ask(engine: TorchEngine, prompt: str, max_tokens: int) -> Any:
    return engine.submit(Request([{"role": "user", "content": prompt}], greedy, 0, max_tokens))


def in_random_batches(engine: TorchEngine, prompts: list[str], max_tokens: int) -> list[Completion]:
    """Submitted in random order, in bursts of random size, so that rows join a running batch."""
    chance = random.Random(5)
    order = list(range(len(prompts)))
    chance.shuffle(order)
    handles: dict[int, Any] = {}
    while len(handles) < len(order):
        for index in order[len(handles) : len(handles) + chance.randint(1, 40)]:
            handles[index] = ask(engine, prompts[index], max_tokens)
        threading.Event().wait(chance.random())
    return [handles[index].result(1800) for index in range(len(prompts))]


def compare(engine: TorchEngine, prompts: list[str], max_tokens: int) -> None:
    together = in_random_batches(engine, prompts, max_tokens)
    parted = 0
    for prompt, batch in zip(prompts, together):
        engine._runner.tree.clear()
        alone = ask(engine, prompt, max_tokens).result(600)
        ours, theirs = alone.continuation.tokens, batch.continuation.tokens
        if ours == theirs and alone.stop_reason == batch.stop_reason:
            continue
        parted += 1
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        # Where one of them ended, its end has no row of alternatives: the longer one has it.
        rows = [run.continuation.top_logprobs for run in (alone, batch) if len(run.continuation.tokens) > at]
        (_, best), (_, second) = rows[0][at]
        assert best - second <= NEAR_TIE, f"{prompt!r} parts at token {at}, where nothing is near"
    print(f"{parted} of {len(prompts)} answers part at a near-tie")


@pytest.mark.model
def test_24_prompts_of_32_tokens(engine: TorchEngine, real_data: Path) -> None:
    compare(engine, real_prompts(real_data, 24), 32)


@pytest.mark.full
@pytest.mark.timeout(2400)
def test_200_prompts_of_128_tokens(engine: TorchEngine, real_data: Path) -> None:
    prompts = real_prompts(real_data, 200)
    assert len(prompts) == 200
    compare(engine, prompts, 128)
