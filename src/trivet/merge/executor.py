"""Run a merge: read the models block by block, merge, and write every block to its place in the output.

Nothing holds a model. The output is made in a hidden folder beside its place and moves there whole, as the
last step, so what stands under its name is a finished checkpoint. Killed at any instant, the same command
goes on with the first shard that is not finished.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch

from trivet._files import canonical_json, sha256_text
from trivet.errors import MergeError
from trivet.merge._allocator import freed_blocks_kept
from trivet.merge._group import Merged, TensorGroup
from trivet.merge._tokenizer_files import tokenizer_identity
from trivet.merge.diagnostics import Sums, diagnose
from trivet.merge.groups import Groups, common_values, of_tokens, vocabulary_parts
from trivet.merge.layout import Layout, Output, config_class, output_dtype, plan_layout
from trivet.merge.recipe import Recipe
from trivet.merge.shards import Planned, Shard, ShardWriter, is_whole, plan_shards, write_index
from trivet.merge.sources import Sources
from trivet.merge.staging import open_staging
from trivet.merge.stream import memory_of_one
from trivet.merge.tokenizer import build_vocabulary, same_vocabulary
from trivet.merge.tokenizer_rule import RULES
from trivet.merge.vocabulary import Vocabulary

SHARD_BYTES = 5 * 10**9
DIAGNOSED = 2**16  # elements of a tensor that the report's diagnostics look at, about: evenly spaced rows
_FORMAT = 2


@dataclass(frozen=True)
class Merge:
    """A merge that is settled and checked, and not yet run.

    ``identities`` has a SHA-256 of the content of each model by its name in the recipe, and of the tokenizer
    alone where the recipe names a model for nothing else.
    """

    recipe: Recipe
    layout: Layout
    shards: tuple[Shard, ...]
    vocabulary: Vocabulary | None
    chat_template: str | None
    identities: dict[str, str]
    sources: Sources

    @property
    def address(self) -> str:
        """SHA-256 of all that determines the output."""
        content = self.recipe.model_dump(mode="json", by_alias=True)
        shards = [
            [shard.file, [[tensor.name, str(tensor.dtype), tensor.shape] for tensor in shard.tensors]]
            for shard in self.shards
        ]
        method = [self.layout.method.name, self.layout.method.version]
        inputs = [self.identities, self.chat_template]
        return sha256_text(canonical_json([_FORMAT, method, content, inputs, shards]))

    @cached_property
    def planned(self) -> dict[str, Planned]:
        """The tensors that are written, by their names."""
        return {tensor.name: tensor for shard in self.shards for tensor in shard.tensors}


@dataclass
class Done:
    """What was merged of one tensor, for the report."""

    output: Output
    notes: dict[str, Any]
    sums: Sums | None


@dataclass
class Outcome:
    """A finished merge. ``tensors`` lacks those of shards that an earlier run had finished."""

    folder: Path
    seconds: float
    bytes_written: int
    tensors: list[Done] = field(default_factory=list)


def prepare(recipe: Recipe, *, folder: Path, where: str, shard_bytes: int = SHARD_BYTES) -> Merge:
    """Open the models of a recipe and settle everything that can be known before the weights are read.

    Args:
        folder: what relative paths in the recipe refer to first; then the working directory.
        where: the recipe's name in messages.

    Raises:
        ConfigError: a parameter is missing, unknown or out of bounds, or the chat template is not valid.
        ModelError: a model cannot be opened.
        MergeError: the models, or their vocabularies, do not fit together.
    """
    sources = Sources(folder, recipe.base_model)
    layout = plan_layout(recipe, sources, where=where)
    models = [sources.open(name) for name in recipe.model_names()]
    vocabulary = _vocabulary(recipe, sources)
    if vocabulary is not None:
        for output in filter(of_tokens, layout.outputs):
            vocabulary_parts(output, models)
    tensors = [
        Planned(output.name, _shape(output, vocabulary), output_dtype(recipe, output.entry))
        for output in layout.outputs
    ]
    shards = tuple(plan_shards(tensors, shard_bytes))
    identities = _identities(recipe, sources)
    return Merge(recipe, layout, shards, vocabulary, _template(recipe, sources), identities, sources)


def _identities(recipe: Recipe, sources: Sources) -> dict[str, str]:
    found = {name: sources.open(name).identity for name in recipe.model_names()}
    rule = recipe.vocabulary
    if rule is not None and rule.source not in (*RULES, *found):
        found[rule.source] = tokenizer_identity(sources.folder_of(rule.source))
    return found


def _template(recipe: Recipe, sources: Sources) -> str | None:
    """The recipe's chat template in full; ``None`` where the tokenizer's own stays."""
    if recipe.chat_template is None:
        return None
    from trivet.merge.chat_templates import chat_template  # jinja2 is needed for this alone

    return chat_template(recipe.chat_template, [sources.open(name).folder for name in recipe.model_names()])


def _vocabulary(recipe: Recipe, sources: Sources) -> Vocabulary | None:
    folders = {name: sources.open(name).folder for name in recipe.model_names()}
    if recipe.vocabulary is not None:
        return build_vocabulary(recipe.vocabulary, recipe.base_model, folders, sources.folder_of)
    first = next(iter(folders.values()))
    for other in dict.fromkeys(folders.values()):
        differs = same_vocabulary(first, other) if other != first else None
        if differs is not None:
            raise MergeError(
                differs,
                where="tokenizer",
                hint="say how they are joined: tokenizer_source: base (or union, or a model)",
            )
    return None


def _shape(output: Output, vocabulary: Vocabulary | None) -> tuple[int, ...]:
    if vocabulary is None or not of_tokens(output):
        return output.entry.shape
    return (vocabulary.size, *output.entry.shape[1:])


def run(
    merge: Merge,
    staging: Path,
    *,
    threads: int | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
    on_shard: Callable[[str, Sequence[Done]], None] = lambda file, tensors: None,
) -> Outcome:
    """Write the weights of the output to ``staging``; finished shards of an equal merge are kept.

    Args:
        threads: tensors under way at once; by default one for each of torch's threads, or fewer where their
            matrices would not fit half of the memory that is free.
        on_bytes: called with the bytes written so far, from any thread.
        on_shard: called with each shard's file and tensors, before the file has its name.

    Raises:
        MergeError, ModelError: a tensor cannot be merged or read.
        StoreError: the disk is full.
    """
    started = time.perf_counter()
    open_staging(staging, merge.address, merge.shards)
    outcome = Outcome(staging, 0.0, 0)
    whole = threads or workers_for(merge.layout)
    work = _Work(merge, outcome, on_bytes)
    with freed_blocks_kept(), _one_thread_each(whole):
        for shard in merge.shards:
            if not is_whole(staging, shard):
                before = len(outcome.tensors)
                with ShardWriter(staging, shard) as writer:
                    work.shard(shard, writer, whole)
                    on_shard(shard.file, outcome.tensors[before:])
    write_index(staging, merge.shards)
    outcome.seconds = time.perf_counter() - started
    return outcome


def workers_for(layout: Layout) -> int:
    """How many tensors are merged at once: one for each thread, as far as half of the free memory goes."""
    threads = torch.get_num_threads()
    if not config_class(layout.method).whole:
        return threads
    room = psutil.virtual_memory().available // 2
    return int(max(1, min(threads, room // max(1, memory_of_one(layout.outputs, whole=True)))))


class _one_thread_each:  # noqa: N801 - reads as a statement
    """Within the block, torch's operations run in the thread that calls them: a thread has its tensor."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._before = torch.get_num_threads()

    def __enter__(self) -> None:
        if self._workers > 1:
            torch.set_num_threads(1)

    def __exit__(self, *problem: object) -> None:
        torch.set_num_threads(self._before)


class _Work:
    """Merges the tensors of a shard in several threads."""

    def __init__(self, merge: Merge, outcome: Outcome, on_bytes: Callable[[int], None]) -> None:
        self._merge = merge
        self._outcome = outcome
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._groups = Groups(merge)

    def shard(self, shard: Shard, writer: ShardWriter, threads: int) -> None:
        names = {tensor.name for tensor in shard.tensors}
        outputs = [output for output in self._merge.layout.outputs if output.name in names]
        outputs.sort(key=lambda output: -output.entry.end + output.entry.start)  # the longest first
        with ThreadPoolExecutor(
            threads, "trivet-merge", initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            futures = [pool.submit(self._tensor, output, writer) for output in outputs]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:  # Ctrl-C too: what is under way ends at its next block
                self._stopping.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _tensor(self, output: Output, writer: ShardWriter) -> None:
        if not output.entry.floating:
            self._copy(output, writer)
            return
        group = self._groups.open(output)
        merged = self._merge.layout.method.function(output.config, group)
        with torch.inference_mode():
            sums = self._write(group, merged, writer, self._merge.planned[output.name].dtype)
        self._record(Done(output, group.notes, sums))

    def _write(
        self, group: TensorGroup, merged: Merged, writer: ShardWriter, dtype: torch.dtype
    ) -> Sums | None:
        sums: Sums | None = None
        unsound = 0
        step = max(1, group.elements // DIAGNOSED)
        for block in group.blocks():
            if self._stopping.is_set():
                raise CancelledError
            values = merged(block).to(dtype)
            writer.write(group.name, block.first, values)
            self._count(values.nbytes)
            unsound += 0 if bool(torch.isfinite(values).all()) else int((~torch.isfinite(values)).sum())
            first = -block.row % step
            if group.has_base and first < block.rows:
                assert block.base is not None
                rows = slice(first, None, step)
                found = diagnose([delta[rows] for delta in block.deltas], block.base[rows])
                sums = found if sums is None else sums + found
        if unsound:
            group.warn(f"{unsound} merged numbers are infinite or not a number")
        return sums

    def _copy(self, output: Output, writer: ShardWriter) -> None:
        values = common_values(output)
        writer.write(output.name, 0, values)
        self._count(values.nbytes)
        self._record(Done(output, {}, None))

    def _count(self, written: int) -> None:
        with self._lock:
            self._outcome.bytes_written += written
            self._on_bytes(self._outcome.bytes_written)

    def _record(self, done: Done) -> None:
        with self._lock:
            self._outcome.tensors.append(done)


def bytes_of(outputs: Sequence[Output]) -> int:
    """Bytes that the sources of these tensors take on disk."""
    return sum(part.entry.end - part.entry.start for output in outputs for part in output.parts)
