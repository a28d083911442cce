"""The FastAPI application: routes, and every error in OpenAI's form."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from trivet.errors import TrivetError
from trivet.systems.server.authentication import AuthenticationMiddleware, Keys
from trivet.systems.server.body import read_body
from trivet.systems.server.chat_completions import ChatReply
from trivet.systems.server.completions import TextReply
from trivet.systems.server.errors import RequestError, from_trivet
from trivet.systems.server.generation import GenerationResponse
from trivet.systems.server.metrics import CLIENT_LEFT, MetricsMiddleware
from trivet.systems.server.reply import Reply
from trivet.systems.server.requests import ChatRequest, CompletionRequest, RequestType
from trivet.systems.server.settings import ServerSettings
from trivet.systems.server.state import ServerState
from trivet.systems.system import System

_ENDPOINTS = frozenset({"/v1/models", "/v1/chat/completions", "/v1/completions", "/healthz", "/metrics"})


def make_application(
    systems: Sequence[System], settings: ServerSettings, keys: Keys | None = None, *, local: bool = True
) -> FastAPI:
    """The application that serves systems; ``application.state.server`` is its ``ServerState``.

    Args:
        systems: at least one; they are opened here.
        settings: bounds and times.
        keys: API keys; ``None`` lets everybody in.
        local: the address is one that only this machine reaches.

    Raises:
        ConfigError: two systems have one name.
        TrivetError: a system cannot be opened.
    """
    state = ServerState([system.open() for system in systems], settings)
    created = {name: _described(system) for name, system in state.systems.items()}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.start()
        yield

    # The pages that FastAPI would add load scripts from other hosts.
    app = FastAPI(title="Trivet", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.server = state
    app.add_middleware(AuthenticationMiddleware, keys=keys, local=local)
    app.add_middleware(MetricsMiddleware, metrics=state.metrics, endpoints=_ENDPOINTS)  # the outermost

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": list(created.values())})

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        return JSONResponse(created[state.find(name).name])

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _respond(state, request, ChatRequest, ChatReply)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _respond(state, request, CompletionRequest, TextReply)

    @app.get("/healthz")
    async def health() -> Response:
        if state.stopping:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(state.metrics_text(), media_type="text/plain; version=0.0.4")

    _add_error_handlers(app)
    return app


async def _respond(state: ServerState, request: Request, kind: type[RequestType], reply: Any) -> Response:
    body = await read_body(request, kind, state.settings)
    system = state.find(body.model)
    request.scope["trivet.record"].model = system.name
    made: Reply = reply(system, body)
    return GenerationResponse(state, made)


def _described(system: System) -> dict[str, Any]:
    """An entry of ``/v1/models``; computing the identity here keeps the first request quick."""
    return {
        "id": system.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "trivet",
        "trivet": {"identity": system.identity},
    }


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return error.response()

    @app.exception_handler(TrivetError)
    async def unsupported(_: Request, error: TrivetError) -> Response:
        return from_trivet(error, retry_after=1, submitted=False).response()

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, _: ClientDisconnect) -> Response:
        request.scope["trivet.record"].status = CLIENT_LEFT
        return Response(status_code=int(CLIENT_LEFT))  # to nobody

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        return RequestError(
            error.status_code, str(error.detail), code="not_found" if error.status_code == 404 else None
        ).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return RequestError(500, "the server failed; its log says why", code="server_error").response()
