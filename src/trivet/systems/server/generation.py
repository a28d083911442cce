"""One request for answers, from its admission to the end of its response, plain or streamed.

It ends early when its time is over, when the client leaves, or when the server stops; then its answers are
cancelled, which frees their places in the engine's batch. An error that comes before the first text has a
status of its own; later it is the last event of the stream.
"""

import asyncio
import logging
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

import anyio.to_thread
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trivet.errors import TrivetError
from trivet.systems.answer import Answer
from trivet.systems.server.errors import RequestError, from_trivet
from trivet.systems.server.limits import Course, EndedEarlyError, Places, Reason
from trivet.systems.server.metrics import CLIENT_LEFT, Record
from trivet.systems.server.reply import Reply
from trivet.systems.server.state import ServerState
from trivet.systems.server.under_way import AnswersUnderWay, Event

_log = logging.getLogger(__name__)

_HEADERS_AFTER = 1.0
"""Seconds that a stream waits for its first text before it sends its headers: what fails within them, as most
mistakes do, has a status."""
_KEEP_ALIVE = 15.0
"""Seconds without text after which a comment tells the client, and proxies, that the stream lives."""
_LAST_WORD = 1.0
"""Seconds for the error event of a stream, whose client may not be reading."""


class GenerationResponse(Response):
    """Submits the answers of a reply and sends them.

    Args:
        state: of the server.
        reply: what is asked for, in the form of its endpoint.
    """

    def __init__(self, state: ServerState, reply: Reply) -> None:
        self.status_code = 200
        self.background = None
        self._state, self._reply = state, reply
        self._streamed = reply.request.stream
        self._model = reply.system.name
        self._places: Places = state.places[self._model]
        self._course = Course(state.settings.time_limit)
        self._began = False  # the headers of the stream were sent
        self._asked = time.perf_counter()
        self._first_text = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        record: Record = scope["trivet.record"]
        count = self._reply.count
        try:
            self._places.take(count)
        except RequestError as error:
            await error.response()(scope, receive, send)
            return
        under_way = AnswersUnderWay(self._state.bridge, self._places, count)
        watcher = asyncio.create_task(self._watch(receive))
        self._state.courses.add(self._course)
        self._state.metrics.add("trivet_requests_in_progress")
        try:
            async with self._course:
                await self._run(under_way, scope, receive, send)
        except EndedEarlyError as end:
            under_way.cancel()
            if end.reason == "client left":
                record.status = CLIENT_LEFT
            elif not self._course.complete:  # otherwise all has been handed over and only the client is slow
                await self._refuse(_early(end.reason), record, scope, receive, send)
        except RequestError as error:
            under_way.cancel()
            await self._refuse(error, record, scope, receive, send)
        finally:
            self._state.metrics.add("trivet_requests_in_progress", -1)
            self._state.courses.discard(self._course)
            under_way.cancel()
            watcher.cancel()

    async def _watch(self, receive: Receive) -> None:
        """End the request when its client leaves."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._course.end("client left")

    async def _run(self, under_way: AnswersUnderWay, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await under_way.start(self._reply.submit, streamed=self._streamed, limiter=self._state.limiter)
        except TrivetError as error:
            raise self._request_error(error, submitted=False) from None
        answers: dict[int, Answer] = {}
        if self._streamed:
            await self._stream(under_way, answers, send)
            return
        while len(answers) < under_way.count:
            for index, piece in await under_way.next():
                if piece is None:
                    answers[index] = await self._answer(under_way, index)
        whole = self._reply.whole([answers[index] for index in range(under_way.count)])
        self._count(answers, whole["usage"])
        self._course.complete = True
        await _json(whole)(scope, receive, send)

    async def _answer(self, under_way: AnswersUnderWay, index: int) -> Answer:
        pending = under_way.pending[index]
        try:
            if self._reply.system.spec.reasoning is None:
                answer = pending.answer(timeout=0)
            else:  # counting the tokens of reasoning decodes the answer several times
                answer = await anyio.to_thread.run_sync(pending.answer, 0, limiter=self._state.limiter)
        except TrivetError as error:
            raise self._request_error(error, submitted=True) from None
        except CancelledError:
            raise RequestError(
                503, "the answer was cancelled: its engine closes", code="engine_closed"
            ) from None
        except Exception as error:  # a defect of a method or a judge; what it says may quote the answer
            _log.exception("an answer of %s failed", self._model)
            raise RequestError(
                500, f"the answer failed ({type(error).__name__})", code="engine_error"
            ) from error
        self._places.note(answer.seconds)
        return answer

    def _request_error(self, error: TrivetError, *, submitted: bool) -> RequestError:
        return from_trivet(error, retry_after=self._places.retry_after, submitted=submitted)

    # -- streams

    async def _stream(self, under_way: AnswersUnderWay, answers: dict[int, Answer], send: Send) -> None:
        reply, waiting = self._reply, _HEADERS_AFTER
        while len(answers) < under_way.count:
            events: list[Event] = []
            with suppress(TimeoutError):
                async with asyncio.timeout(waiting):
                    events = await under_way.next()
            choices: list[dict[str, Any]] = []
            for index, piece in events:
                opened = under_way.pending[index].opened()
                if piece is None:
                    answers[index] = await self._answer(under_way, index)
                    choices += reply.last_pieces(index, answers[index], opened=opened)
                else:
                    self._note_first_text()
                    choices += reply.pieces(index, piece, opened=opened)
            data = b"".join(_event(reply.chunk([choice])) for choice in choices)
            if not self._began:
                data = await self._begin(under_way.count, send) + data
            await _send(send, data or (b"" if events else b": the answer is being made\n\n"))
            waiting = _KEEP_ALIVE
        usage = reply.usage([answers[index] for index in range(under_way.count)])
        self._count(answers, usage)
        last = _event(reply.chunk([], usage)) if reply.request.include_usage else b""
        self._course.complete = True
        await send({"type": "http.response.body", "body": last + b"data: [DONE]\n\n"})

    async def _begin(self, count: int, send: Send) -> bytes:
        """Send the headers; returns the events that come before any text."""
        self._began = True
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        headers.append((b"x-accel-buffering", b"no"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        firsts = [self._reply.first_choice(index) for index in range(count)]
        return b"".join(_event(self._reply.chunk([choice])) for choice in firsts if choice is not None)

    def _note_first_text(self) -> None:
        if not self._first_text:
            self._first_text = True
            seconds = time.perf_counter() - self._asked
            self._state.metrics.observe("trivet_time_to_first_token_seconds", seconds, model=self._model)

    # -- ends

    def _count(self, answers: dict[int, Answer], usage: dict[str, Any]) -> None:
        self._state.metrics.count_answers(list(answers.values()), usage, self._model)

    async def _refuse(
        self, error: RequestError, record: Record, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if not self._began:
            await error.response()(scope, receive, send)
            return
        record.status = str(error.status)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await send({"type": "http.response.body", "body": _event(error.body())})


def _early(reason: Reason) -> RequestError:
    if reason == "stopping":
        return RequestError(
            503, "the server is stopping", code="server_stopping", headers={"Retry-After": "10"}
        )
    return RequestError(504, "the answer took longer than this server allows", code="timeout")


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _to_json(value) + b"\n\n"


async def _send(send: Send, data: bytes) -> None:
    if data:
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _json(value: dict[str, Any]) -> Response:
    return Response(_to_json(value), media_type="application/json")


def _to_json(value: dict[str, Any]) -> bytes:
    return to_json(value, inf_nan_mode="null")  # a trace may hold scores that are not finite
