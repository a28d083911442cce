"""One request under way: its program, what the program waits for, and its answer."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trivet.errors import EngineError, UnsupportedError
from trivet.models.engine import Completion, Handle, Request, Usage
from trivet.models.gated_answer import GatedAnswer
from trivet.models.operations import (
    Commit,
    Computation,
    Continuation,
    Extend,
    Hidden,
    Judge,
    Operation,
    Program,
    ProgramContext,
    Score,
    Several,
    Tokens,
)
from trivet.models.torch_engine.beside import Beside
from trivet.models.torch_engine.loading import LoadedModel
from trivet.models.torch_engine.row_maker import RowMaker
from trivet.models.torch_engine.rows import ExtendRow, Row


@dataclass(eq=False)
class TaskHandle:
    """What ``submit`` returns."""

    on_cancel: Callable[[], None]
    future: "Future[Completion]" = field(default_factory=Future)

    def result(self, timeout: float | None = None) -> Completion:
        return self.future.result(timeout)

    def cancel(self) -> None:
        if self.future.cancel():
            self.on_cancel()

    def done(self) -> bool:
        return self.future.done()

    def add_done_callback(self, callback: Callable[[Handle], None]) -> None:
        self.future.add_done_callback(lambda _: callback(self))


class Task:
    """A request's program between two operations. Used from the engine's thread alone.

    Args:
        number: order of submission; earlier requests go first.
        models: the engine's own model under ``""``, and the auxiliary ones by name.
        layer_count: number of blocks, for ``Hidden``.
    """

    def __init__(
        self,
        request: Request,
        prompt: Tokens,
        number: int,
        models: Mapping[str, LoadedModel],
        layer_count: Callable[[], int],
    ) -> None:
        self.request, self.prompt, self.number = request, prompt, number
        self.usage = Usage(prompt_tokens=len(prompt))
        self.answer = GatedAnswer(request)
        self.handle = TaskHandle(lambda: None)
        self.rows: list[Row] = []
        # Nodes of the KV tree that this and the last operation computed: (model, node).
        self.held: list[tuple[str, Any]] = []
        self.held_before: list[tuple[str, Any]] = []
        self.finished = False
        self._own = models[""]
        self._beside = Beside(request, prompt, models)
        self._maker = RowMaker(request, prompt, number, models, layer_count, self.answer.append)
        self._operation: Operation | None = None
        self._parts: list[tuple[Computation, list[Row]]] = []
        self._program: Program | None = None
        self._started = time.perf_counter()
        self._first: float | None = None

    @property
    def judging(self) -> Judge | None:
        """The ``Judge`` operation that the program waits for, if it does."""
        return self._operation if isinstance(self._operation, Judge) else None

    def start(self) -> None:
        """Begin the program and run it to its first operation."""
        own, request = self._own, self.request
        self._context = ProgramContext(
            prompt=self.prompt,
            chat=request.chat,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            stop=request.stop,
            top_logprobs=request.top_logprobs,
            random=np.random.default_rng([abs(request.seed), 1]),
            encode=own.encode,
            decode=own.decode,
            render=own.render,
            eos=own.eos,
            context_length=own.context_length,
            prompt_of=self._beside.prompt_of,
            same_as=self._beside.same_as,
            transform=self._beside.transform,
            continues=request.continue_final_message,
        )
        self._program = request.program(self._context)
        self.resume(None)

    def resume(self, result: Any, failure: BaseException | None = None) -> None:
        """Go on with the result of the last operation, until the next one or the end."""
        assert self._program is not None
        while not self.answer.blocked:
            self._operation, self._parts, self.rows = None, [], []
            try:
                operation = self._program.throw(failure) if failure else self._program.send(result)
            except StopIteration:
                break
            result, failure = None, None
            self._operation = operation
            try:
                if isinstance(operation, Judge):
                    self.usage.judge_calls += len(operation.chats)
                    return
                if isinstance(operation, Commit):
                    self._commit(operation)
                    continue
                wanted = operation.operations if isinstance(operation, Several) else (operation,)
                self._parts = [(one, self._maker.make(one)) for one in wanted]
                self.rows = [row for _, rows in self._parts for row in rows]
            except UnsupportedError:
                raise
            except EngineError as error:
                failure = error  # the program may have a way out; otherwise it ends the request
                continue
            if self.rows:
                return
            result = self.collect()
        self._finish()

    def _commit(self, operation: Commit) -> None:
        if self._first is None:
            self._first = time.perf_counter() - self._started
        self.answer.add(operation.continuation)

    def collect(self) -> Any:
        """The result of the operation whose rows are done."""
        results = [self._result(operation, rows) for operation, rows in self._parts]
        return results if isinstance(self._operation, Several) else results[0]

    def _result(self, operation: Computation, rows: list[Row]) -> Any:
        results = [row.result for row in rows]
        match operation:
            case Extend():
                if not results:
                    results = [Continuation((), "", (), "length") for _ in range(operation.n)]
                if operation.commit:
                    row = rows[0] if rows else None
                    streamed = isinstance(row, ExtendRow) and row.on_piece is not None
                    self.answer.add(results[0], already_appended=streamed)
                return results
            case Score():
                scored = iter(results)
                return [
                    next(scored) if continuation else np.empty(0, dtype=np.float32)
                    for continuation in operation.continuations
                ]
            case Hidden():
                return results[0]
            case _:
                return results

    def cut(self) -> None:
        """A gate ended the answer while it was streaming: keep what was drawn, and finish."""
        for row in self.rows:
            if isinstance(row, ExtendRow) and not row.done:
                part = Continuation(tuple(row.answer), "", tuple(row.logprobs), "blocked", tuple(row.tops))
                self.answer.add(part, already_appended=True)
        self._finish()

    def fail(self, error: BaseException) -> None:
        """End the request with an error."""
        self._close()
        with suppress(InvalidStateError):  # cancelled meanwhile
            self.handle.future.set_exception(error)

    def note_token(self) -> None:
        """A token was drawn; one of the answer counts as its first."""
        if self._first is None and isinstance(self._operation, Extend) and self._operation.commit:
            self._first = time.perf_counter() - self._started

    def _finish(self) -> None:
        self._close()
        text, continuation = self.answer.finish()
        self.usage.completion_tokens = self.answer.token_count
        completion = Completion(
            text=text,
            continuation=continuation,
            stop_reason=continuation.stop_reason,
            usage=self.usage,
            seconds=time.perf_counter() - self._started,
            seconds_to_first_token=self._first,
            trace=tuple(self._context.trace),
        )
        with suppress(InvalidStateError):
            self.handle.future.set_result(completion)

    def _close(self) -> None:
        self.finished = True
        if self._program is not None:
            with suppress(Exception):  # a program that misbehaves while it is closed has had its say
                self._program.close()
