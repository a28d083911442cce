"""What a merge will cost, before it starts: bytes, memory, and the time of a trial on this machine."""

import time
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch

from trivet.merge._group import MemoryGroup
from trivet.merge.executor import Merge, bytes_of, workers_for
from trivet.merge.layout import config_class
from trivet.merge.stream import fits, memory_of_one

_TRIAL_ROWS, _TRIAL_COLUMNS = 256, 1024
_TRIAL_READ = 64 * 2**20


@dataclass(frozen=True)
class Cost:
    """Estimates. ``memory_bytes`` is what the merge adds to a process that has loaded torch; ``seconds``
    are of
    the merge itself, scaled up from a trial of the method and a trial read of the first file."""

    method: str
    models: int
    tensors: int
    files: int
    bytes_read: int
    bytes_written: int
    memory_bytes: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def estimate(merge: Merge, *, threads: int | None = None) -> Cost:
    """Settle what can be counted and try what cannot."""
    outputs = merge.layout.outputs
    workers = threads or workers_for(merge.layout)
    config = config_class(merge.layout.method)
    passes = config.passes
    once = [output for output in outputs if passes == 1 or fits(output)]
    again = [output for output in outputs if not (passes == 1 or fits(output))]
    read = bytes_of(once) + passes * bytes_of(again)
    written = sum(shard.bytes for shard in merge.shards)
    busy = _seconds_per_element(merge) * sum(prod(output.entry.shape) for output in outputs) / workers
    return Cost(
        method=merge.recipe.method,
        models=len(merge.recipe.model_names()),
        tensors=len(outputs),
        files=len(merge.shards),
        bytes_read=read,
        bytes_written=written,
        memory_bytes=workers * memory_of_one(outputs, whole=config.whole),
        seconds=busy + (read + written) * _seconds_per_byte(merge),
    )


def _seconds_per_element(merge: Merge) -> float:
    """Time of the method on a random tensor, in one thread, for each element of the output."""
    sample = max(merge.layout.outputs, key=lambda output: prod(output.entry.shape))
    generator = torch.Generator().manual_seed(0)
    shape = (_TRIAL_ROWS, _TRIAL_COLUMNS)
    base = torch.randn(shape, generator=generator)
    experts = [base + 0.01 * torch.randn(shape, generator=generator) for _ in sample.experts]
    group = MemoryGroup(experts, base if sample.base is not None else None, name="trial")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = float("inf")
        for _ in range(2):
            started = time.perf_counter()
            group.merged(merge.layout.method.function(sample.config, group))
            best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return best / prod(shape)


def _seconds_per_byte(merge: Merge) -> float:
    """Time to read a byte of the first model's weights."""
    weights = merge.layout.donor.weights
    largest = max(weights.entries, key=lambda name: weights.entries[name].end - weights.entries[name].start)
    entry = weights.entries[largest]
    width = max(1, entry.columns * entry.dtype.itemsize)
    rows = max(1, min(_TRIAL_READ // width, prod(entry.shape[:-1])))
    started = time.perf_counter()
    weights.read_raw(largest, 0, rows)
    return (time.perf_counter() - started) / (rows * width)
