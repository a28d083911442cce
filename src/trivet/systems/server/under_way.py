"""The answers of one request, from their submission to their ends."""

import asyncio
import threading
from collections.abc import Callable

import anyio
import anyio.to_thread

from trivet.systems.answer import Answer
from trivet.systems.server.bridge import Bridge
from trivet.systems.server.limits import Places
from trivet.systems.waiting import Pending

Submit = Callable[[int, Callable[[str], None] | None], Pending[Answer]]
"""Submits the answer of a number, with ``on_text`` where it is streamed."""

Event = tuple[int, str | None]
"""The number of an answer and the next piece of its text; ``None`` where it is done."""


class AnswersUnderWay:
    """Submits answers and hears what the engine says of them. No thread waits for them.

    Args:
        bridge: to the event loop.
        places: of the system; those that were taken are given back as the answers end.
        count: of answers, for each of which a place was taken.
    """

    def __init__(self, bridge: Bridge, places: Places, count: int) -> None:
        self.count = count
        self.pending: list[Pending[Answer]] = []
        self._bridge, self._places = bridge, places
        self._events: list[Event] = []
        self._wake = asyncio.Event()
        self._cancelled = threading.Event()

    async def start(self, submit: Submit, *, streamed: bool, limiter: anyio.CapacityLimiter) -> None:
        """Submit all answers, in a thread, since rendering and tokenising a long chat takes a while.

        Raises:
            TrivetError: the system refuses one of them; the others are cancelled.
        """
        try:
            await anyio.to_thread.run_sync(self._submit_all, submit, streamed, limiter=limiter)
        except BaseException:
            self.cancel()
            raise

    def _submit_all(self, submit: Submit, streamed: bool) -> None:
        try:
            for index in range(self.count):
                if self._cancelled.is_set():  # the client left while this waited for its turn
                    break
                on_text = self._listener(index) if streamed else None
                pending = submit(index, on_text)
                self.pending.append(pending)
                pending.handle.add_done_callback(lambda _, index=index: self._post_end(index))  # type: ignore[misc]
                if self._cancelled.is_set():
                    pending.handle.cancel()
        finally:
            unused = self.count - len(self.pending)
            self._bridge.post(lambda: self._places.give_back(unused))

    def _listener(self, index: int) -> Callable[[str], None]:
        return lambda piece: self._bridge.post(lambda: self._hear((index, piece)))

    def _post_end(self, index: int) -> None:
        self._bridge.post(lambda: self._end(index))

    def _end(self, index: int) -> None:
        self._places.give_back()
        self._hear((index, None))

    def _hear(self, event: Event) -> None:
        self._events.append(event)
        self._wake.set()

    async def next(self) -> list[Event]:
        """What has happened since the last call, in order, the pieces of one answer joined; waits for it."""
        await self._wake.wait()
        self._wake.clear()
        events, self._events = self._events, []
        joined: list[Event] = []
        pieces: dict[int, list[str]] = {}
        for index, piece in events:
            if piece is not None:
                pieces.setdefault(index, []).append(piece)
            else:
                if index in pieces:
                    joined.append((index, "".join(pieces.pop(index))))
                joined.append((index, None))
        return [(index, "".join(texts)) for index, texts in pieces.items()] + joined

    def cancel(self) -> None:
        """Cancel what has not ended, which frees its slots; does nothing to what has."""
        self._cancelled.set()
        for pending in list(self.pending):
            pending.handle.cancel()
