"""Submitting a judge's requests: a full queue is waited for, since a judge has nothing better to do."""

import time

from trivet.errors import QueueFullError
from trivet.models.engine import Engine, Handle, Request


def submit(engine: Engine, request: Request) -> Handle:
    """``engine.submit(request)``, waiting while its queue is full.

    Raises:
        EngineError: as ``Engine.submit``, but for ``QueueFullError``.
    """
    while True:
        try:
            return engine.submit(request)
        except QueueFullError:
            time.sleep(0.05)
