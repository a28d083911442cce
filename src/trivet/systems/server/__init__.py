"""The OpenAI-compatible server over systems: ``trivet serve``."""

from trivet.systems.server.application import make_application
from trivet.systems.server.authentication import Keys, read_keys
from trivet.systems.server.running import Server, address_of, bind, is_loopback, make_server
from trivet.systems.server.settings import ServerSettings

__all__ = [
    "Keys",
    "Server",
    "ServerSettings",
    "address_of",
    "bind",
    "is_loopback",
    "make_application",
    "make_server",
    "read_keys",
]
