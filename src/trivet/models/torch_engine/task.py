"""One request under way: its program, what the program waits for, and its answer."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trivet._validation import did_you_mean
from trivet.errors import ContextLengthError, EngineError, UnsupportedError
from trivet.models.engine import Completion, Handle, Request, Usage
from trivet.models.gated_answer import GatedAnswer
from trivet.models.operations import (
    Commit,
    Continuation,
    Extend,
    Hidden,
    Judge,
    Next,
    Operation,
    Program,
    ProgramContext,
    Score,
    Tokens,
)
from trivet.models.torch_engine.detokenizer import Detokenizer
from trivet.models.torch_engine.loading import LoadedModel
from trivet.models.torch_engine.rows import ExtendRow, HiddenRow, NextRow, Row, ScoreRow


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
        self.held: list[tuple[str, Any]] = []
        self.finished = False
        self._models, self._own = models, models[""]
        self._layer_count = layer_count
        self._operation: Operation | None = None
        self._operations = 0
        self._program: Program | None = None
        self._started = time.perf_counter()
        self._first: float | None = None
        self._lock = threading.Lock()

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
        )
        self._program = request.program(self._context)
        self.resume(None)

    def resume(self, result: Any, failure: Exception | None = None) -> None:
        """Go on with the result of the last operation, until the next one or the end."""
        assert self._program is not None
        while not self.answer.blocked:
            self._operation, self.rows = None, []
            try:
                operation = self._program.throw(failure) if failure else self._program.send(result)
            except StopIteration:
                break
            result, failure = None, None
            self._operation = operation
            self._operations += 1
            try:
                if isinstance(operation, Judge):
                    self.usage.judge_calls += len(operation.chats)
                    return
                if isinstance(operation, Commit):
                    self.answer.add(operation.continuation)
                    continue
                self.rows = self._make_rows(operation)
            except UnsupportedError:
                raise
            except EngineError as error:
                failure = error  # the program may have a way out; otherwise it ends the request
                continue
            if self.rows:
                return
            result = self.collect()
        self._finish()

    def collect(self) -> Any:
        """The result of the operation whose rows are done."""
        operation, results = self._operation, [row.result for row in self.rows]
        match operation:
            case Extend():
                if not results:
                    results = [Continuation((), "", (), "length") for _ in range(operation.n)]
                if operation.commit:
                    row = self.rows[0] if self.rows else None
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
        """A token was drawn."""
        if self._first is None:
            self._first = time.perf_counter() - self._started

    def _finish(self) -> None:
        self._close()
        text, continuation = self.answer.finish()
        self.usage.completion_tokens = len(continuation.tokens)
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

    def _make_rows(self, operation: Operation) -> list[Row]:
        match operation:
            case Extend():
                return self._extend_rows(operation)
            case Score():
                return self._score_rows(operation)
            case Next():
                return self._next_rows(operation)
            case Hidden():
                return self._hidden_rows(operation)
        raise UnsupportedError(f"this engine has no operation {type(operation).__name__}")

    def _extend_rows(self, operation: Extend) -> list[Row]:
        if operation.commit and operation.n != 1:
            raise EngineError("Extend(commit=True) needs n = 1")
        self._check(operation.prefix, 1)
        if operation.max_tokens < 1:
            return []
        request, own = self.request, self._own
        streams = operation.commit and (request.on_text is not None or bool(request.hooks.gates))
        watched = streams or any(operation.stop)
        rows: list[Row] = []
        for index in range(operation.n):
            rows.append(
                ExtendRow(
                    list(operation.prefix),
                    (self.number, index),
                    activations=request.hooks.activations,
                    prefix=operation.prefix,
                    prompt_length=self._prompt_length(operation.prefix),
                    room=operation.max_tokens,
                    max_tokens=operation.max_tokens,
                    context_length=own.context_length,
                    sampling=operation.sampling,
                    top_logprobs=operation.top_logprobs,
                    transforms=request.hooks.logits,
                    random=np.random.default_rng([abs(request.seed), 2, self._operations, index]),
                    eos=own.eos,
                    text=Detokenizer(own.decode, operation.stop) if watched else None,
                    on_piece=self.answer.append if streams else None,
                    decode=own.decode,
                )
            )
        return rows

    def _score_rows(self, operation: Score) -> list[Row]:
        rows: list[Row] = []
        for index, continuation in enumerate(operation.continuations):
            tokens = (*operation.prefix, *continuation)
            self._check(operation.prefix, 1)
            self._check(tokens, 0)
            if continuation:
                rows.append(
                    ScoreRow(
                        list(tokens[:-1]),
                        (self.number, index),
                        activations=self.request.hooks.activations,
                        prefix_length=len(operation.prefix),
                        continuation=continuation,
                    )
                )
        return rows

    def _next_rows(self, operation: Next) -> list[Row]:
        self._check(operation.prefix, 0)
        rows: list[Row] = []
        for index, name in enumerate(operation.models):
            if name not in self._models:
                raise UnsupportedError(
                    f"no model {name!r} is loaded beside this one", hint=did_you_mean(name, self._models)
                )
            own = name == "" and operation.prefix[: len(self.prompt)] == self.prompt
            rows.append(
                NextRow(
                    list(operation.prefix),
                    (self.number, index),
                    model=name,
                    activations=self.request.hooks.activations if name == "" else (),
                    prompt_length=len(self.prompt),
                    transforms=self.request.hooks.logits if own else (),
                )
            )
        return rows

    def _hidden_rows(self, operation: Hidden) -> list[Row]:
        self._check(operation.tokens, 0)
        count, length = self._layer_count(), len(operation.tokens)
        if operation.positions == () or not operation.layers:
            raise EngineError("Hidden needs at least one layer and one position (None is their mean)")
        for layer in operation.layers:
            if not 0 <= layer <= count:
                raise EngineError(f"layer {layer} is not there: the model has layers 0 to {count}")
        deepest, positions = max(operation.layers), operation.positions
        if positions is not None:
            for position in positions:
                if not -length <= position < length:
                    raise EngineError(f"position {position} is outside the {length} tokens")
            positions = tuple(position % length for position in positions)
        return [
            HiddenRow(
                list(operation.tokens),
                (self.number, 0),
                activations=self.request.hooks.activations,
                depth=None if self.request.hooks.activations or deepest == count else deepest,
                layers=operation.layers,
                positions=positions,
            )
        ]

    def _prompt_length(self, prefix: Tokens) -> int:
        return len(self.prompt) if prefix[: len(self.prompt)] == self.prompt else len(prefix)

    def _check(self, tokens: Tokens, room: int) -> None:
        context = self._own.context_length
        if not tokens:
            raise EngineError("a prefix must have at least one token")
        if len(tokens) + room > context:
            raise ContextLengthError(
                f"{len(tokens)} tokens do not fit the model's context of {context}",
                where=self._own.where,
                hint="shorten the prompt",
            )
        vocabulary = self._own.model.get_input_embeddings().weight.shape[0]
        if min(tokens) < 0 or max(tokens) >= vocabulary:
            raise EngineError(f"a token id is outside the vocabulary of {vocabulary}")
