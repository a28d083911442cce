"""Errors as OpenAI's API gives them: a status and ``{"error": {"message", "type", "param", "code"}}``."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from trivet.errors import (
    ConfigError,
    ContextLengthError,
    DataError,
    EndpointError,
    ModelError,
    QueueFullError,
    TrivetError,
    UnsupportedError,
)

_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "timeout_error",
}


class RequestError(Exception):
    """A request is answered with this error.

    Args:
        status: of HTTP.
        message: what happened, the rule and the next step.
        param: the field at fault.
        code: a word for machines.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


def from_trivet(error: TrivetError, *, retry_after: int, submitted: bool) -> RequestError:
    """The error of an answer.

    Args:
        error: what the system raised.
        retry_after: seconds after which a place is likely to be free.
        submitted: the system had taken the request; before that, a model that refuses means a chat that its
            template refuses.
    """
    hint = f" ({error.hint})" if error.hint else ""
    message = f"{error.message}{hint}"
    match error:
        case QueueFullError():
            return queue_full(retry_after)
        case ContextLengthError():
            return RequestError(400, message, param="messages", code="context_length_exceeded")
        case UnsupportedError():
            return RequestError(400, message, code="unsupported")
        case ConfigError() | DataError():
            return RequestError(400, message, code="invalid_value")
        case ModelError() if not submitted:
            return RequestError(400, message, param="messages", code="invalid_value")
        case EndpointError():
            return RequestError(502, message, code="endpoint_error")
    return RequestError(500, message, code="engine_error")


def queue_full(retry_after: int) -> RequestError:
    """Status 429 with the seconds after which to ask again."""
    return RequestError(
        429,
        f"the server has as many answers under way as it takes; ask again in {retry_after} s",
        code="queue_full",
        headers={"Retry-After": str(retry_after)},
    )
