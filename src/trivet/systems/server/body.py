"""The body of a request, within its bounds."""

import asyncio

from starlette.requests import Request

from trivet.systems.server.errors import RequestError
from trivet.systems.server.requests import RequestType, read
from trivet.systems.server.settings import ServerSettings

_DISCARDED = 64 * 1024**2
"""Bytes of a body that is too large which are read and thrown away: a client that is still sending when the
connection closes may never see the answer."""


async def read_body(request: Request, kind: type[RequestType], settings: ServerSettings) -> RequestType:
    """Read and check the JSON body of a request.

    Raises:
        RequestError: 413 where it is too large, with and without a Content-Length; 415 where it is not sent
            as JSON; 408 where it does not come in time; 400 where it is no valid request.
        ClientDisconnect: the client left.
    """
    # A web page can send other types to this machine without being asked for permission first.
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise RequestError(
            415,
            "send the body as JSON, with the header Content-Type: application/json",
            code="unsupported_media_type",
        )
    try:
        async with asyncio.timeout(settings.time_limit):
            body = await _bounded(request, settings.body_bytes)
    except TimeoutError:
        raise RequestError(408, "the body did not come in time", headers={"Connection": "close"}) from None
    return read(kind, body)


async def _bounded(request: Request, most: int) -> bytes:
    announced = request.headers.get("content-length", "")
    waits = "expect" in request.headers  # the client sends the body only when it is asked to
    if announced.isdigit() and int(announced) > (most if waits else _DISCARDED):
        raise _too_large(most)
    body, size = bytearray(), 0
    async for piece in request.stream():
        size += len(piece)
        if size <= most:
            body += piece
        elif size > _DISCARDED:
            break
    if size > most:
        raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> RequestError:
    return RequestError(
        413,
        f"the body is larger than the {most} bytes that this server takes",
        code="request_too_large",
        headers={"Connection": "close"},
    )
