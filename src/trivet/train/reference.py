"""Reference log-probabilities: computed once for each token, kept on disk by content.

They are kept for each token and not for each answer, so that one file serves every α of length
desensitisation and every weight of a front. The file's name is a digest of the model, the arithmetic and the
token ids; nothing else decides what is in it.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from trivet._files import atomic_writer, canonical_json, sha256_text
from trivet.models.cache import cache_folder
from trivet.train.batches import Example, model_inputs

BATCH_TOKENS = 2048


def reference_logprobs(
    model: Any,
    examples: Sequence[Example],
    *,
    identity: str,
    packed: bool,
    padding: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[torch.Tensor]:
    """For each example the log-probability of each answer token, its answers one after another, float32.

    Args:
        model: the reference, which scores answers (``trivet.train.scoring``).
        identity: digest of what the model is.
        progress: told how many examples of how many are done.
    """
    path = _path(model, examples, identity, packed)
    lengths = [sum(map(len, example.answers)) for example in examples]
    known = _read(path, sum(lengths))
    if known is None:
        known = _compute(model, examples, packed, padding, progress)
        with atomic_writer(path, "wb") as stream:
            stream.write(save({"logprobs": known}))
    return list(torch.split(known, lengths))


def _path(model: Any, examples: Sequence[Example], identity: str, packed: bool) -> Path:
    content = [identity, str(model.dtype), str(model.device.type), packed, torch.__version__]
    tokens = [[list(one.prompt), *map(list, one.answers)] for one in examples]
    return cache_folder() / "reference" / f"{sha256_text(canonical_json([content, tokens]))}.safetensors"


def _read(path: Path, count: int) -> torch.Tensor | None:
    try:
        found = load_file(path)["logprobs"]
    except (OSError, KeyError, SafetensorError):
        return None  # not there yet, or damaged: it is made again
    return found if len(found) == count else None


@torch.no_grad()
def _compute(
    model: Any,
    examples: Sequence[Example],
    packed: bool,
    padding: int,
    progress: Callable[[int, int], None],
) -> torch.Tensor:
    training = model.training
    model.eval()
    # Answers of like length together, so that padding costs little; the order is undone at the end.
    order = sorted(range(len(examples)), key=lambda index: examples[index].length)
    found: dict[int, torch.Tensor] = {}
    for batch in _batches(order, examples):
        chosen = [examples[index] for index in batch]
        inputs = model_inputs(chosen, packed=packed, padding=padding)
        logprobs = model(**on_device(inputs, model.device)).float().cpu()
        lengths = [sum(map(len, one.answers)) for one in chosen]
        found |= dict(zip(batch, logprobs.split(lengths), strict=True))
        progress(len(found), len(examples))
    model.train(training)
    return torch.cat([found[index] for index in range(len(examples))])


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors among ``inputs`` on the device."""
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }


def _batches(order: Sequence[int], examples: Sequence[Example]) -> Iterator[list[int]]:
    batch: list[int] = []
    tokens = 0
    for index in order:
        if batch and tokens + examples[index].length > BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += examples[index].length
    if batch:
        yield batch
