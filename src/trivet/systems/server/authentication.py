"""API keys: optional, from an environment variable or a file, compared in constant time."""

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from trivet.errors import ConfigError
from trivet.systems.server.errors import RequestError

OPEN = frozenset({"/healthz"})
"""Paths that need no key: what supervisors ask."""


class Keys:
    """The keys that clients may use. Only their digests are kept, and no comparison tells where two differ.

    Args:
        keys: at least one, none of them empty.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def allow(self, header: bytes | None) -> bool:
        """Whether an ``Authorization`` header holds one of the keys."""
        scheme, _, given = (header or b"").partition(b" ")
        digest = _digest(given.strip())
        matches = [
            hmac.compare_digest(digest, known) for known in self._digests
        ]  # all, whatever the first says
        return any(matches) and scheme.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(*, variable: str | None = None, path: Path | None = None) -> Keys:
    """Read keys.

    Args:
        variable: name of an environment variable that holds keys, separated by commas or white space.
        path: a file with a key a line; blank lines and those that begin with ``#`` do not count.

    Raises:
        ConfigError: the variable is not set, the file cannot be read, or there is no key in it.
    """
    keys: list[str] = []
    if variable is not None:
        found = os.environ.get(variable, "").replace(",", " ").split()
        if not found:
            raise ConfigError(
                f"the environment variable {variable} holds no key", hint=f"export {variable}=… with a key"
            )
        keys += found
    if path is not None:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot be read: {error}", where=str(path)) from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ConfigError("holds no key", where=str(path), hint="write one key a line")
        keys += found
    return Keys(keys)


class AuthenticationMiddleware:
    """Answers 401 to requests without a key.

    Args:
        app: what it stands before.
        keys: ``None`` lets every request through.
        local: only this machine reaches the server. Then requests without keys must name it as this machine:
            a web page could give a name of its own this machine's address, and so ask in its reader's place.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None, local: bool) -> None:
        self._app, self._keys, self._local = app, keys, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on where it may."""
        refusal = self._refusal(scope) if scope["type"] == "http" and scope["path"] not in OPEN else None
        await (refusal.response() if refusal else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self._keys is not None:
            if self._keys.allow(headers.get(b"authorization")):
                return None
            return RequestError(
                401,
                "this server needs an API key: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if self._local and not _names_this_machine(headers.get(b"host", b"").decode("latin-1")):
            return RequestError(
                403, "without API keys this server answers at localhost only", code="foreign_host"
            )
        return None


def _names_this_machine(host: str) -> bool:
    """Whether a ``Host`` header is localhost or a loopback address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
