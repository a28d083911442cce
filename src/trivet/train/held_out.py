"""Which rows train and which are held out, and the figures of a preference trainer on the latter."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from trivet.errors import DataError
from trivet.statistics.proportions import wilson
from trivet.train.preference_trainer import PreferenceExample, PreferenceTrainer
from trivet.train.preferences import Pair, asked
from trivet.train.reference import on_device

_Item = TypeVar("_Item")


def hold_out(pairs: Sequence[Pair], count: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Draw pairs that are held out, all pairs of a prompt together.

    Returns:
        Those that train and those that are held out, in their order.

    Raises:
        DataError: nothing would be left to train on.
    """
    digests = [asked(pair["prompt"]) for pair in pairs]
    sizes = Counter(digests)
    order = list(sizes)
    random.Random(seed).shuffle(order)
    drawn: set[str] = set()
    size = 0
    for digest in order:
        if size >= count:
            break
        drawn.add(digest)
        size += sizes[digest]
    rest = [pair for pair, digest in zip(pairs, digests, strict=True) if digest not in drawn]
    if not rest:
        raise DataError(
            f"held_out: {count} of {len(pairs)} pairs leaves none to train on", hint="hold out fewer"
        )
    return rest, [pair for pair, digest in zip(pairs, digests, strict=True) if digest in drawn]


def those_seen(pairs: list[_Item], arguments: Any, seed: int, notes: list[str]) -> list[_Item]:
    """The rows that the steps asked for will see, drawn by the seed; all where that is an epoch or more.

    What is not seen needs neither token ids nor a reference.
    """
    step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    count = arguments.max_steps * step
    if not 0 < count < len(pairs):
        return pairs
    notes.append(f"{count} of them, drawn by the seed, are seen in {arguments.max_steps} steps")
    return [pairs[index] for index in sorted(random.Random(seed).sample(range(len(pairs)), count))]


@torch.no_grad()
def held_out_metrics(trainer: PreferenceTrainer, examples: Sequence[PreferenceExample]) -> dict[str, Any]:
    """Loss on the held-out pairs, and how often the chosen answer has the higher reward."""
    model = trainer.model
    model.eval()
    losses, right = [], []
    for one in examples:
        batch = trainer.data_collator([one])
        batch["model"] = on_device(batch["model"], model.device)
        batch |= on_device(
            {name: batch[name] for name in ("owners", "reference", "margins", "weights")}, model.device
        )
        loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
        losses.append(float(loss))
        right.append(bool(outputs["logits"][0] > 0))
    interval = wilson(sum(right), len(right))
    return {
        "held-out pairs": len(examples),
        "held-out loss": sum(losses) / len(losses),
        "held-out accuracy": sum(right) / len(right),
        "held-out accuracy, 95 % interval": [interval.low, interval.high],
    }
