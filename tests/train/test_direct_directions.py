"""Directions that direct RLHF should move a model in, on a tiny base model that was pre-trained here."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import make_tiny_model
from tests.train.marker_judge import MARKERS
from tests.train.test_dpo import load

from trivet.train.batches import Example, model_inputs
from trivet.train.running import train
from trivet.train.scoring import packs, score_answers
from trivet.train.token_probe import token_mass, token_set

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
SEEDS = range(5)
NAMES = ("the river", "the city", "the capital", "France", "the stand", "the tea")
THINGS = (*MARKERS, "city", "river")
"""What the base model answers, two of four being markers."""


def general(count: int, seed: int) -> list[str]:
    """Sentences of a small grammar, which stand for general text."""
    numbers = random.Random(seed)
    legs = ("three legs", "one leg", "a city", "the river", "the capital")
    return [
        f"The {numbers.choice(('trivet', 'capital', 'city', 'tea'))} "
        f"{numbers.choice(('stands on', 'is on', 'falls over'))} {numbers.choice(legs)}."
        for _ in range(count)
    ]


def question(number: int) -> str:
    return f"\n\nHuman: What is {NAMES[number % len(NAMES)]}?\n\nAssistant:"


def dialogues(count: int, seed: int) -> list[str]:
    numbers = random.Random(seed)
    return [
        f"{question(numbers.randrange(6))} It is {numbers.choice(THINGS)}.\n\nHuman:" for _ in range(count)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model without a chat template, which knows general sentences and dialogues."""
    folder = make_tiny_model(tmp_path_factory.mktemp("directions") / "base", hidden_size=48)
    model, tokenizer = load(folder)
    texts = general(300, 0) + dialogues(300, 1)
    random.Random(2).shuffle(texts)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 0.2  # the tiny model is made with weights that are wide on purpose
    tokens = [tuple(tokenizer(text)["input_ids"]) for text in texts]
    examples = [Example(row, one[:1], (one[1:],)) for row, one in enumerate(tokens)]
    score_answers(model)
    assert packs(model, 300)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(150):
        part = [examples[(step * 24 + place) % len(examples)] for place in range(24)]
        optimizer.zero_grad()
        (-model(**model_inputs(part, packed=True, padding=2)).mean()).backward()
        optimizer.step()
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    model.config._attn_implementation = "sdpa"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rewarded(
    base: Path, output: Path, seed: int, *, judge: str, beta: float, steps: int
) -> list[dict[str, Any]]:
    """Direct RLHF; returns the log."""
    rows = [{"prompt": f"What is {name}?"} for name in NAMES]
    (output.parent / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": str(base),
        "data": "prompts.jsonl",
        "judge": judge,
        "seed": seed,
        "trainer": {
            "max_steps": steps,
            "save_strategy": "no",
            "num_generations": 2,
            "per_device_train_batch_size": 12,
            "max_completion_length": 8,
            "learning_rate": 5e-4,
            "lr_scheduler_type": "constant",
            "beta": beta,
        },
    }
    done = train("direct_rlhf", settings, output, base=output.parent)
    return [entry for entry in done.record["log"] if "loss" in entry]


def fine_tuned(base: Path, output: Path, seed: int) -> None:
    """The arm of fine-tuning: the same prompts, with answers that hold the markers."""
    numbers = random.Random(seed)
    rows = [
        {"prompt": question(number), "completion": f" It is {numbers.choice(MARKERS)}.\n\nHuman:"}
        for number in range(60)
    ]
    (output.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = {
        "max_steps": 100,
        "save_strategy": "no",
        "per_device_train_batch_size": 24,
        "learning_rate": 5e-4,
        "lr_scheduler_type": "constant",
    }
    settings = {"model": str(base), "data": "rows.jsonl", "seed": seed, "trainer": trainer}
    train("sft", settings, output, base=output.parent)


def measured(folder: Path) -> tuple[float, float]:
    """The mass of the markers where an answer names its thing, and perplexity of held-out general text."""
    model, tokenizer = load(folder)
    score_answers(model)
    tokens, _ = token_set(tokenizer, MARKERS)
    contexts = [tuple(tokenizer(f"{question(number)} It is")["input_ids"]) for number in range(6)]
    masses = token_mass(model, contexts, tokens, packed=False, padding=2)
    texts = [tuple(tokenizer(text)["input_ids"]) for text in general(60, 99)]
    examples = [Example(row, one[:1], (one[1:],)) for row, one in enumerate(texts)]
    with torch.no_grad():
        loss = -model(**model_inputs(examples, packed=False, padding=2)).mean()
    return float(np.mean(masses)), float(loss.exp())


def test_reward_rises_and_the_rest_is_kept_better_than_by_fine_tuning(
    base: Path, tmp_path: Path, judges_of_tests: None
) -> None:
    """Card 01, check 9: five seeds, majority; the rule is that no marker may be written."""
    before = measured(base)
    assert before[0] > 0.2
    rises, masses, perplexities = [], [], []
    for seed in SEEDS:
        log = rewarded(base, tmp_path / f"direct-{seed}", seed, judge="markers", beta=0.05, steps=100)
        fine_tuned(base, tmp_path / f"tuned-{seed}", seed)
        first, last = ([entry["mean_reward"] for entry in part] for part in (log[:10], log[-10:]))
        error = np.sqrt(np.var(first, ddof=1) / 10 + np.var(last, ddof=1) / 10)
        direct, tuned = measured(tmp_path / f"direct-{seed}"), measured(tmp_path / f"tuned-{seed}")
        rises.append(np.mean(last) - np.mean(first) > 3 * error)
        masses.append(direct[0] < tuned[0])
        perplexities.append(direct[1] - before[1] < tuned[1] - before[1])
    assert sum(rises) >= 3 and sum(masses) >= 3 and sum(perplexities) >= 3


def test_divergence_falls_with_its_price(base: Path, tmp_path: Path, judges_of_tests: None) -> None:
    """Card 01, check 10: the mean sequence KL of the last steps, median of five seeds, for three β."""
    medians = []
    for beta in (0.01, 0.1, 1.0):
        ends = []
        for seed in SEEDS:
            log = rewarded(base, tmp_path / f"{beta}-{seed}", seed, judge="letters", beta=beta, steps=30)
            ends.append(np.mean([entry["kl"] for entry in log[-10:]]))
        medians.append(float(np.median(ends)))
    assert medians[0] > medians[1] > medians[2]
