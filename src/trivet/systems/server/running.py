"""Running the application under uvicorn, and its graceful stop."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from trivet.errors import ConfigError
from trivet.systems.server.application import make_application
from trivet.systems.server.authentication import Keys
from trivet.systems.server.settings import ServerSettings
from trivet.systems.system import System

_AFTER_GRACE = 5  # seconds in which requests that were ended say so to their clients
_IDLE = 30  # seconds that an unused connection stays: longer than clients keep theirs (5 in httpx), or both
# would meet, a request on its way and a connection that is being closed
_DEAD_AFTER = 60  # seconds in which a client takes nothing of what was sent, until it counts as gone


class Server(uvicorn.Server):
    """uvicorn's server; SIGTERM and SIGINT stop it gracefully.

    It stops accepting, lets requests finish within the grace period, then ends what is left. A second SIGINT
    does not wait.
    """

    def __init__(
        self, application: FastAPI, settings: ServerSettings, *, on_start: Callable[[], None] | None = None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                access_log=False,  # what people ask is nobody's business
                log_level="warning",
                ws="none",
                server_header=False,
                timeout_keep_alive=_IDLE,
                timeout_graceful_shutdown=int(settings.grace) + _AFTER_GRACE,
            )
        )
        self._state = application.state.server
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        if self._on_start is not None:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn does, but the signal is not raised again after a stop that it asked for."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; requests under way have the grace period."""
        self._state.stop()
        await super().shutdown(sockets)


def bind(settings: ServerSettings) -> socket.socket:
    """Bind the socket of a server; it refuses connections until the server runs.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken.
    """
    host, port = settings.host, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _give_up_dead_clients(bound)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
        return bound
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            hint="choose another --host or --port",
        ) from None


def _give_up_dead_clients(bound: socket.socket) -> None:
    """Have the system close connections whose client is gone or has stopped reading; those that are accepted
    inherit it. Where the system has no such option, they stay until the client closes them."""
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _DEAD_AFTER),
        ("TCP_KEEPINTVL", _DEAD_AFTER // 4),
        ("TCP_USER_TIMEOUT", 1000 * _DEAD_AFTER),
    ):
        if hasattr(socket, name):
            bound.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(bound.getsockname()[0].split("%")[0]).is_loopback


def address_of(bound: socket.socket) -> str:
    """The base URL for clients."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def make_server(
    systems: Sequence[System],
    settings: ServerSettings,
    keys: Keys | None,
    bound: socket.socket,
    *,
    on_start: Callable[[], None] | None = None,
) -> Server:
    """A server for a socket of ``bind``; ``server.run([bound])`` serves until SIGTERM or SIGINT.

    Args:
        systems: at least one; they are opened here.
        settings: bounds and times.
        keys: API keys; ``None`` lets everybody in.
        bound: the socket.
        on_start: called when the server accepts connections.

    Raises:
        ConfigError: two systems have one name.
        TrivetError: a system cannot be opened.
    """
    application = make_application(systems, settings, keys, local=is_loopback(bound))
    return Server(application, settings, on_start=on_start)
