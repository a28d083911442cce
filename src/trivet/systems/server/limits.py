"""Bounds of a request: a place in the queue, the time that it may take, what ends it early."""

import asyncio
import math
from contextlib import suppress
from types import TracebackType
from typing import Literal

from trivet.systems.server.errors import RequestError, queue_full

Reason = Literal["time limit", "client left", "stopping"]


class Places:
    """The answers of one system that may run or wait at once.

    Args:
        count: of answers.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0
        self._mean_seconds = 1.0

    def take(self, count: int) -> None:
        """Take places.

        Raises:
            RequestError: 429 where too few are free, 400 where there are fewer in all.
        """
        if count > self.count:
            raise RequestError(
                400, f"{count} answers are asked for at once; this server takes {self.count}", param="n"
            )
        if self.taken + count > self.count:
            raise queue_full(self.retry_after)
        self.taken += count

    def give_back(self, count: int = 1) -> None:
        """Free places."""
        self.taken -= count

    def note(self, seconds: float) -> None:
        """An answer took so long."""
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)

    @property
    def retry_after(self) -> int:
        """Seconds until a place is likely to be free, 1 to 60: what an answer took lately."""
        return min(60, max(1, math.ceil(self._mean_seconds)))


class EndedEarlyError(Exception):
    """A request ended before its answer was there."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Course:
    """The time of one request, as a context: its block is interrupted when the time is over, or by ``end``.

    Args:
        seconds: the time limit.

    Raises:
        EndedEarlyError: the block was interrupted.
    """

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._reason: Reason = "time limit"
        self.complete = False  # nothing is left to be ended

    def end(self, reason: Reason) -> None:
        """Interrupt the block; does nothing where it has ended or is complete."""
        if not self.complete and not self._timeout.expired():
            self._reason = reason
            with suppress(RuntimeError):  # the block has not begun or has ended
                self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> "Course":
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise EndedEarlyError(self._reason) from None
