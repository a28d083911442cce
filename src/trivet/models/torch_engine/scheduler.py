"""Continuous batching: sequences join and leave the running batch at every step.

Each step feeds one token of every sequence that is decoding and, in what is left of the step's token budget,
stretches of prompts, so that a long prompt does not stall the answers in flight. A sequence whose prompt
begins like one that is being computed waits for it and takes the common part from the KV tree. Earlier
requests go first.
"""

import heapq
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import torch

from trivet.errors import EngineError
from trivet.models.torch_engine.kv_tree import common_length
from trivet.models.torch_engine.parking import Parking
from trivet.models.torch_engine.rows import ExtendRow, HiddenRow, NextRow, Row, ScoreRow
from trivet.models.torch_engine.runner import ModelRunner, Work
from trivet.models.torch_engine.sampling import draw
from trivet.models.torch_engine.task import Task

_WORTH_WAITING = 8  # tokens of a common prefix for which a sequence waits
inside_judge = threading.local()


@dataclass(frozen=True)
class Limits:
    """``rows``: sequences in the batch; ``stretch``: prompt tokens a step while others decode; ``alone``:
    prompt tokens a step when none does; ``slot_bytes``: memory of the sequences in the batch, which a
    sequence that is alone may exceed."""

    slot_bytes: int
    rows: int = 64
    stretch: int = 256
    alone: int = 1024


class Scheduler:
    """Runs tasks on the runners of an engine, in a thread of its own."""

    def __init__(self, runners: Mapping[str, ModelRunner], limits: Limits) -> None:
        self._runners, self._limits = runners, limits
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._tasks: set[Task] = set()
        self._owner: dict[Row, Task] = {}
        self._waiting: list[tuple[tuple[int, int], int, Row]] = []
        self._active: list[Row] = []
        self._parking = Parking(runners)
        self._count = 0
        self._closing = False
        self._closed = False  # no task comes after this; under the lock
        self._lock = threading.Lock()
        self._judges = ThreadPoolExecutor(
            8, thread_name_prefix="trivet-judge", initializer=lambda: setattr(inside_judge, "yes", True)
        )
        self._thread = threading.Thread(target=self._run, name="trivet-engine", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Take a task over.

        Raises:
            EngineError: the scheduler is closed.
        """
        task.handle.on_cancel = lambda: self._inbox.put(lambda: self._drop(task))
        with self._lock:  # a task that came after the end would be waited for without end
            if self._closed:
                raise EngineError("the engine is closed")
            self._inbox.put(lambda: self._begin(task))

    def when_idle(self, action: Callable[[], None]) -> None:
        """Run ``action`` in the scheduler's thread, where no step can be under way; waits for its end.

        Raises:
            EngineError: a task is under way, or the scheduler is closed; or what ``action`` raises.
        """
        done: Future[None] = Future()

        def run() -> None:
            try:
                if self._tasks:
                    raise _busy()
                action()
                done.set_result(None)
            except BaseException as error:  # it is raised where it is waited for
                done.set_exception(error)

        if threading.current_thread() is self._thread:  # called by a task: waiting would never end
            raise _busy()
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            self._inbox.put(run)
        done.result()

    def close(self) -> None:
        """Cancel all tasks and end the thread."""
        with self._lock:
            self._closed = True
            self._inbox.put(self._close)
        self._thread.join()
        self._judges.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._read_inbox()
                self._admit()
                for name, runner in self._runners.items():
                    # Rows that need the first blocks only go apart, so that they stop there.
                    mine = [row for row in self._active if row.model == name]
                    for rows in (
                        [row for row in mine if row.depth is None],
                        [row for row in mine if row.depth is not None],
                    ):
                        if rows:
                            self._step(runner, rows)
            except Exception as error:  # nobody may be left waiting for a thread that has died
                for task in list(self._tasks):
                    task.fail(error)
                    self._drop(task)

    def _read_inbox(self) -> None:
        block = not self._active and not self._waiting
        while not self._closing:
            try:
                message = self._inbox.get(block=block)
            except Empty:
                return
            message()
            block = False

    def _close(self) -> None:
        self._closing = True
        for task in list(self._tasks):
            task.handle.future.cancel()
            self._drop(task)

    def _begin(self, task: Task) -> None:
        if not task.handle.done():
            self._tasks.add(task)
            self._guarded(task, task.start)

    def _guarded(self, task: Task, action: Callable[[], None]) -> None:
        """Run a part of a task's program; whatever it raises ends this task alone."""
        try:
            action()
        except BaseException as error:
            task.fail(error)
        if task.finished:
            self._drop(task)
        elif task.judging is not None:
            self._judge(task)
        else:
            self._parking.prepare(task)
            for row in task.rows:
                self._owner[row] = task
                self._count += 1
                heapq.heappush(self._waiting, (row.order, self._count, row))

    def _judge(self, task: Task) -> None:
        operation = task.judging
        assert operation is not None

        def score() -> None:
            if task.finished:  # cancelled while it waited for its turn
                return
            result: Any = None
            failure: BaseException | None = None
            try:
                result = list(operation.judge.score(operation.chats))
            except BaseException as error:  # also a cancellation inside the judge: the program waits
                failure = error
            self._inbox.put(lambda: self._resume(task, result, failure))

        self._judges.submit(score)

    def _resume(self, task: Task, result: Any, failure: BaseException | None = None) -> None:
        if task in self._tasks:
            self._guarded(task, lambda: task.resume(result, failure))

    def _drop(self, task: Task) -> None:
        """Forget a task that has finished, failed or been cancelled, and free its slots."""
        if task not in self._tasks:
            return
        self._tasks.discard(task)
        if not task.finished:
            task.fail(CancelledError())
        for row in task.rows:
            row.done = True
            self._leave(row)
        self._parking.release(task)
        self._release(task.held_before)
        self._release(task.held)

    def _release(self, held: list[tuple[str, Any]]) -> None:
        for model, node in held:
            self._runners[model].tree.release(node)
        held.clear()

    def _leave(self, row: Row) -> None:
        self._owner.pop(row, None)
        if row in self._active:
            self._active.remove(row)
        self._runners[row.model].end(row)

    # -- joining the batch

    def _admit(self) -> None:
        put_back = []
        tries, limit = 2 * self._limits.rows, self._limits.slot_bytes
        while self._waiting and len(self._active) < self._limits.rows and tries:
            entry = heapq.heappop(self._waiting)
            row = entry[2]
            if row.done:
                continue
            tries -= 1
            task = self._owner[row]
            if not self._parking.waits_for(task, row) and self._should_wait(row):
                put_back.append(entry)
                continue
            while self._bytes(row) + self._used() > limit and self._parking.release_latest(task):
                pass
            if self._active and self._bytes(row) + self._used() > limit:
                put_back.append(entry)
                break
            try:
                soon = len(self._active) + len(self._waiting) + 1
                fitting = limit // self._bytes(row)
                found = self._runners[row.model].start(
                    row, min(self._limits.rows, soon, fitting), self._parking.take(task, row)
                )
            except (RuntimeError, MemoryError) as error:  # no memory for the slot
                task.fail(EngineError(f"no room for the sequence: {str(error).splitlines()[0]}"))
                self._drop(task)
                continue
            task.usage.cached_tokens += found
            self._active.append(row)
        for entry in put_back:
            heapq.heappush(self._waiting, entry)

    def _bytes(self, row: Row) -> int:
        return self._runners[row.model].slots.nbytes(len(row.tokens) + row.room)

    def _used(self) -> int:
        return sum(map(self._bytes, self._active)) + sum(map(self._bytes, self._parking.rows()))

    def _should_wait(self, row: Row) -> bool:
        if row.private:
            return False
        for other in self._active:
            if other.pending > 1 and other.keeps and not other.goes_on and other.model == row.model:
                common = min(common_length(other.tokens, row.tokens), row.reusable)
                if common > other.stored + _WORTH_WAITING:
                    return True
        return False

    # -- one step

    def _step(self, runner: ModelRunner, rows: list[Row]) -> None:
        work = [Work(row, 1) for row in rows if row.pending == 1]
        budget = self._limits.stretch if work else self._limits.alone
        for row in sorted((row for row in rows if row.pending > 1), key=lambda row: row.order):
            count = min(row.pending, budget)
            if count:
                work.append(Work(row, count))
                budget -= count
        try:
            logits = runner.step(work)
        except Exception as error:
            failure = EngineError(f"the model failed: {' '.join(str(error).split())[:400]}")
            failure.__cause__ = error
            for task in {self._owner[piece.row] for piece in work}:
                task.fail(failure)
                self._drop(task)
            return
        for piece in work:
            self._owner[piece.row].usage.forward_tokens += piece.count
        self._store_prompts(runner, work)
        with torch.inference_mode():
            self._read_logits(work, logits)
        self._settle(work)
        model = rows[0].model
        mine = [row for row in self._active if row.model == model] + list(self._parking.rows(model))
        runner.slots.compact([(row.slot, row.computed) for row in mine if row.slot])

    def _store_prompts(self, runner: ModelRunner, work: list[Work]) -> None:
        for piece in work:
            if piece.count > 1 and piece.row.keeps and not piece.row.error and not piece.row.goes_on:
                runner.hold(piece.row, self._owner[piece.row].held)

    def _read_logits(self, work: list[Work], logits: torch.Tensor) -> None:
        drawing: list[tuple[ExtendRow, int]] = []
        for piece in work:
            row, mine = piece.row, logits[piece.first : piece.first + len(piece.wanted)]
            if row.error:
                continue
            if isinstance(row, ExtendRow) and piece.wanted:
                if row.transforms:
                    mine[0] = row.transformed(mine[0])
                if not row.error:
                    drawing.append((row, piece.first))
            elif isinstance(row, ScoreRow | NextRow) and piece.wanted:
                row.take(piece.wanted, mine)
            elif isinstance(row, HiddenRow) and not row.pending:
                row.finish()
        if drawing:
            self._draw(drawing, logits)

    def _draw(self, drawing: list[tuple[ExtendRow, int]], logits: torch.Tensor) -> None:
        drawing.sort(key=lambda pair: pair[1])
        places = [place for _, place in drawing]
        # Most steps read the logits of decoding sequences alone, and then nothing is copied.
        if places != list(range(len(logits))):
            logits = logits[places]
        drawn = draw(logits, [row.draw() for row, _ in drawing])
        for (row, _), token in zip(drawing, drawn):
            self._owner[row].note_token()
            try:
                row.take(token)
            except Exception as error:  # the caller's on_text raised
                row.error = error

    def _settle(self, work: list[Work]) -> None:
        """Fail, finish or go on with the tasks whose rows have changed."""
        touched = dict.fromkeys(self._owner[piece.row] for piece in work)
        for task in touched:
            error = next((row.error for row in task.rows if row.error), None)
            if error is not None:
                task.fail(error)
                self._drop(task)
            elif task.answer.blocked:
                self._guarded(task, task.cut)
            else:
                for row in task.rows:
                    if row.done and row in self._active:
                        if self._parking.fits(task, row):
                            self._park(task, row)
                            continue
                        if row.keeps and row.computed > row.stored:
                            self._runners[row.model].hold(row, task.held)
                        self._leave(row)
                if task.rows and all(row.done for row in task.rows):
                    self._go_on(task)

    def _park(self, task: Task, row: Row) -> None:
        del self._owner[row]
        self._active.remove(row)
        self._parking.park(task, row)

    def _go_on(self, task: Task) -> None:
        # A long search computes far more than fits in memory: what it touched before its last operation stays
        # in the KV tree for as long as there is room, and no longer.
        self._release(task.held_before)
        task.held_before, task.held = task.held, []
        self._guarded(task, lambda: task.resume(task.collect()))


def _busy() -> EngineError:
    return EngineError("requests are under way", hint="wait for them to finish, then try again")
