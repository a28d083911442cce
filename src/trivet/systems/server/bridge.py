"""From the engines' threads to the event loop.

An engine calls back for each token of each answer. Waking the loop costs a system call, so calls are put
together: one wake serves all that came before the loop got to them, about one for each step of the batch.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress


class Bridge:
    """Runs functions in the loop that it was made in, in the order in which they came."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: deque[Callable[[], None]] = deque()
        self._woken = False

    def post(self, call: Callable[[], None]) -> None:
        """Have ``call`` run in the loop soon; from any thread, returns at once."""
        self._calls.append(call)
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended, so nobody listens
                self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._woken = False  # before the calls are taken: what comes later wakes the loop again
        while self._calls:
            self._calls.popleft()()
