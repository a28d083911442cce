"""What all requests of a server share."""

import asyncio
from collections.abc import Sequence

import anyio

from trivet._validation import did_you_mean
from trivet.errors import ConfigError
from trivet.systems.server.bridge import Bridge
from trivet.systems.server.errors import RequestError
from trivet.systems.server.limits import Course, Places
from trivet.systems.server.metrics import Metrics
from trivet.systems.server.settings import ServerSettings
from trivet.systems.system import System

_SUBMITTING = 4  # threads that render and tokenise chats


class ServerState:
    """The systems by name, their places, the requests under way, the metrics.

    Args:
        systems: opened, at least one.
        settings: bounds and times.

    Raises:
        ConfigError: two systems have one name.
    """

    def __init__(self, systems: Sequence[System], settings: ServerSettings) -> None:
        self.settings = settings
        self.systems: dict[str, System] = {}
        for system in systems:
            if system.name in self.systems:
                raise ConfigError(
                    f"two systems have the name {system.name!r}", hint="set name: in their YAML files"
                )
            self.systems[system.name] = system
        self.places = {name: Places(settings.queue) for name in self.systems}
        self.metrics = Metrics()
        self.courses: set[Course] = set()
        self.stopping = False
        self._bridge: Bridge | None = None
        self._limiter: anyio.CapacityLimiter | None = None

    def start(self) -> None:
        """Begin, in the event loop that the server runs in."""
        self._bridge, self._limiter = Bridge(), anyio.CapacityLimiter(_SUBMITTING)

    @property
    def bridge(self) -> Bridge:
        """From the engines' threads to the event loop."""
        assert self._bridge is not None, "the application has not started"
        return self._bridge

    @property
    def limiter(self) -> anyio.CapacityLimiter:
        """Of the threads that submit answers."""
        assert self._limiter is not None, "the application has not started"
        return self._limiter

    def find(self, name: str) -> System:
        """The system of this name.

        Raises:
            RequestError: 404, there is none.
        """
        system = self.systems.get(name)
        if system is None:
            raise RequestError(
                404,
                f"there is no model {name[:100]!r}; {did_you_mean(name[:100], self.systems)}",
                param="model",
                code="model_not_found",
            )
        return system

    def stop(self) -> None:
        """Let the requests under way finish within the grace period, then end them."""
        self.stopping = True
        asyncio.get_running_loop().call_later(self.settings.grace, self._end_all)

    def _end_all(self) -> None:
        for course in list(self.courses):
            course.end("stopping")

    def metrics_text(self) -> str:
        """The metrics, with the gauges as they are now."""
        for name, places in self.places.items():
            self.metrics.set("trivet_queue_length", places.taken, model=name)
            self.metrics.set("trivet_queue_size", places.count, model=name)
        return self.metrics.text()
