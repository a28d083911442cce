"""An engine for back ends that batch by themselves: one worker thread a request drives its program.

llama.cpp and remote endpoints schedule their own batches, so all that is left is to drive each request's
generator, pass committed text through its gates, and keep count. At most ``workers`` requests run at once and
at most ``queue_size`` wait; more are refused, which is the back-pressure.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from trivet.errors import EngineError, QueueFullError, UnsupportedError
from trivet.models.capability_check import check_request
from trivet.models.engine import Capabilities, Completion, Handle, Request, Usage
from trivet.models.gated_answer import GatedAnswer
from trivet.models.operations import (
    Chat,
    Commit,
    Continuation,
    Extend,
    Judge,
    Operation,
    Program,
    ProgramContext,
    Tokens,
)


class Backend(Protocol):
    """What a threaded engine asks of its back end."""

    def prompt(self, request: Request) -> Tokens:
        """Token ids of the request's templated prompt; empty where the back end takes chats.

        Raises:
            ContextLengthError: the prompt does not fit.
        """
        ...

    def extend(
        self,
        request: Request,
        operation: Extend,
        seeds: Sequence[int],
        cancelled: Callable[[], bool],
        on_text: Callable[[str], None] | None,
        usage: Usage,
    ) -> list[Continuation]:
        """Run an ``Extend``, one continuation for each seed; add its costs to ``usage``.

        Stops early when ``cancelled()`` turns true. ``on_text`` receives the text as it comes.
        """
        ...

    def encode(self, text: str) -> Tokens:
        """Token ids of plain text, without special tokens."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        ...

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> Tokens:
        """Token ids of a chat under the chat template, with the generation prompt."""
        ...


@dataclass
class _ThreadedHandle:
    """A request under way in its worker thread."""

    future: "Future[Completion]" = field(default_factory=Future)
    stopping: threading.Event = field(default_factory=threading.Event)

    def result(self, timeout: float | None = None) -> Completion:
        return self.future.result(timeout)

    def cancel(self) -> None:
        self.stopping.set()
        self.future.cancel()

    def done(self) -> bool:
        return self.future.done()

    def add_done_callback(self, callback: Callable[[Handle], None]) -> None:
        self.future.add_done_callback(lambda _: callback(self))


class ThreadedScheduler:
    """Drives the programs of requests in worker threads over a back end."""

    def __init__(
        self, backend: Backend, capabilities: Capabilities, *, workers: int, queue_size: int = 1024
    ) -> None:
        self._backend = backend
        self._capabilities = capabilities
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="trivet-engine")
        self._places = threading.Semaphore(workers + queue_size)
        self._live: dict[int, _ThreadedHandle] = {}
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, request: Request) -> Handle:
        """Queue a request; see ``Engine.submit``."""
        self._check_open()
        check_request(request, self._capabilities)
        prompt = self._backend.prompt(request)
        if not self._places.acquire(blocking=False):
            raise QueueFullError("the admission queue is full", hint="wait for running requests to finish")
        handle = _ThreadedHandle()
        with self._lock:
            try:
                self._check_open()
            except EngineError:
                self._places.release()
                raise
            self._live[id(handle)] = handle
            self._pool.submit(self._run, request, prompt, handle)
        return handle

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")

    def close(self) -> None:
        """Cancel what is under way and wait for the workers."""
        with self._lock:
            self._closed = True
            live = list(self._live.values())
        for handle in live:
            handle.cancel()
        self._pool.shutdown(wait=True, cancel_futures=False)

    def _run(self, request: Request, prompt: Tokens, handle: _ThreadedHandle) -> None:
        try:
            if not handle.future.set_running_or_notify_cancel():
                return
            drive = _Drive(self._backend, self._capabilities, request, prompt, handle.stopping.is_set)
            handle.future.set_result(drive.run())
        except BaseException as error:
            handle.future.set_exception(error)
        finally:
            with self._lock:
                self._live.pop(id(handle), None)
            self._places.release()


class _Drive:
    """One request's program from its first operation to its completion."""

    def __init__(
        self,
        backend: Backend,
        capabilities: Capabilities,
        request: Request,
        prompt: Tokens,
        cancelled: Callable[[], bool],
    ) -> None:
        self._backend = backend
        self._capabilities = capabilities
        self._request = request
        self._cancelled = cancelled
        self._answer = GatedAnswer(request)
        self._usage = Usage()
        self._seeds = np.random.default_rng(request.seed)
        self._started = time.perf_counter()
        self._first: float | None = None
        self._context = ProgramContext(
            prompt=prompt,
            chat=request.chat,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            stop=request.stop,
            top_logprobs=request.top_logprobs,
            random=np.random.default_rng([request.seed, 1]),
            encode=backend.encode,
            decode=backend.decode,
            render=backend.render,
            context_length=capabilities.context_length,
            continues=request.continue_final_message,
        )

    def run(self) -> Completion:
        program: Program = self._request.program(self._context)
        result: Any = None
        failure: Exception | None = None
        try:
            while not self._answer.blocked:
                if self._cancelled():
                    raise CancelledError
                try:
                    operation = program.throw(failure) if failure else program.send(result)
                except StopIteration:
                    break
                result, failure = None, None
                try:
                    result = self._perform(operation)
                except UnsupportedError:
                    raise
                except EngineError as error:
                    failure = error  # the program may have a way out; otherwise it ends the request
        finally:
            program.close()
        text, continuation = self._answer.finish()
        self._usage.completion_tokens = self._usage.completion_tokens or self._answer.token_count
        return Completion(
            text=text,
            continuation=continuation,
            stop_reason=continuation.stop_reason,
            usage=self._usage,
            seconds=time.perf_counter() - self._started,
            seconds_to_first_token=self._first,
            trace=tuple(self._context.trace),
        )

    def _perform(self, operation: Operation) -> Any:
        match operation:
            case Extend():
                return self._extend(operation)
            case Judge():
                self._usage.judge_calls += len(operation.chats)
                return list(operation.judge.score(operation.chats))
            case Commit():
                self._note_text()
                self._answer.add(operation.continuation)
                return None
            case _:
                name = type(operation).__name__
                raise UnsupportedError(
                    f"this engine cannot do the operation {name}",
                    hint="use the PyTorch engine (engine: torch)",
                )

    def _note_text(self) -> None:
        if self._first is None:
            self._first = time.perf_counter() - self._started

    def _extend(self, operation: Extend) -> list[Continuation]:
        if operation.prefix != self._context.prompt and "extend_prefix" not in self._capabilities.operations:
            raise UnsupportedError(
                "this engine can only continue the request's own prompt",
                hint="use the PyTorch engine (engine: torch)",
            )
        if operation.commit and operation.n != 1:
            raise ValueError("Extend(commit=True) needs n = 1")
        if operation.max_tokens < 1:
            nothing = Continuation((), "", (), "length")
            if operation.commit:
                self._answer.add(nothing)
            return [nothing] * operation.n
        seeds = [int(self._seeds.integers(2**31 - 1)) for _ in range(operation.n)]

        def on_text(piece: str) -> None:
            if operation.commit:
                self._note_text()
                self._answer.append(piece)

        def stop() -> bool:
            return self._cancelled() or self._answer.blocked

        continuations = self._backend.extend(self._request, operation, seeds, stop, on_text, self._usage)
        if self._cancelled():
            raise CancelledError
        if operation.commit:
            self._answer.add(continuations[0], already_appended=True)
        return continuations
