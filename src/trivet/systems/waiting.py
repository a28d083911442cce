"""Waiting for an engine's request from an event loop: no thread waits, so hundreds can be under way.

The engine calls back from its own thread; the loop's token wakes the one task that waits. Works under asyncio
and trio.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from trivet.errors import QueueFullError
from trivet.models.engine import Completion, Handle

_FIRST_PAUSE = 0.02  # seconds; doubled at each refusal of the queue, up to
_LONGEST_PAUSE = 1.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Pending(Generic[Result]):
    """A question under way. ``handle`` waits and cancels; ``finish`` makes the answer of its completion.

    ``opened`` says whether the prompt ends inside a reasoning block; it is known when the first text comes.
    """

    handle: Handle
    finish: Callable[[Completion], Result]
    opened: Callable[[], bool] = lambda: False

    def answer(self, timeout: float | None = None) -> Result:
        """Wait for the answer.

        Raises:
            TrivetError: what the request raised.
            TimeoutError: it is not there after ``timeout`` seconds.
        """
        return self.finish(self.handle.result(timeout))


async def submit_and_wait(submit: Callable[[], Pending[Result]]) -> Result:
    """Submit a request and wait for it; a full queue is asked again after a pause.

    Cancelling the task that waits cancels the request, which frees its slot.

    Raises:
        TrivetError: whatever the request raised.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            pending = await anyio.to_thread.run_sync(submit)
            break
        except QueueFullError:
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    try:
        await _done(pending.handle)
    except BaseException:
        pending.handle.cancel()
        raise
    return pending.answer(timeout=0)


async def _done(handle: Handle) -> None:
    event = anyio.Event()
    loop: Any = anyio.lowlevel.current_token().native_token
    # asyncio's loop and trio's token name the same thing differently; both only leave a note and return.
    wake = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon

    def on_done(_: Handle) -> None:
        with suppress(RuntimeError):  # the loop has ended, so nobody waits (trio's error is one too)
            wake(event.set)

    handle.add_done_callback(on_done)
    await event.wait()
