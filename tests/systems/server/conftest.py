"""A real server on loopback, in a thread, over a tiny random model; the ``openai`` client talks to it."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.conftest import write_method_package

from trivet.catalogue import registry
from trivet.models.engines import close_engines
from trivet.systems import System
from trivet.systems.server import Keys, Server, ServerSettings, address_of, bind, make_application

NEVER_STOP = {"2": -100.0}  # the end-of-sequence token
GUARD = '''
from trivet._validation import Config as Base
from trivet.catalogue import method
from trivet.models.engine import GateDecision, Hooks


class Config(Base):
    """Text is shown a block of so many characters at a time; the answer ends after ``blocks``."""

    size: int = 8
    blocks: int = 1000


@method(needs=("gate",))
def guard(config: Config) -> Hooks:
    """Show whole blocks only."""

    def gate(chat, text, final):
        whole = len(text) if final else len(text) - len(text) % config.size
        if whole > config.size * config.blocks:
            return GateDecision(config.size * config.blocks, stop=True, replacement="[stopped]")
        return GateDecision(whole)

    return Hooks(gates=(gate,))
'''


@dataclass
class Running:
    """A server that runs. ``url`` ends with ``/v1``."""

    server: Server
    url: str
    thread: threading.Thread
    systems: list[System]
    clients: list[Any] = field(default_factory=list)

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    @property
    def state(self) -> Any:
        return self.server.config.app.state.server  # type: ignore[union-attr]

    def client(self, **options: Any) -> openai.OpenAI:
        client = openai.OpenAI(base_url=self.url, **{"api_key": "none", "max_retries": 0, **options})
        self.clients.append(client)
        return client

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.root + path, timeout=60, **options)

    def live(self) -> int:
        """Requests that the engines have under way."""
        return sum(system.engine._live for system in self.systems)  # type: ignore[attr-defined]

    def settle(self, seconds: float = 10) -> None:
        """Wait until nothing is under way in the engines and the server."""
        deadline = time.monotonic() + seconds
        while self.live() or any(places.taken for places in self.state.places.values()):
            assert time.monotonic() < deadline, "answers are still under way"
            time.sleep(0.01)

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts servers: ``start(system, …, queue=2)``; they are stopped at the end of the module."""
    running: list[Running] = []

    def begin(*systems: System, keys: Keys | None = None, local: bool = True, **settings: Any) -> Running:
        made = ServerSettings(**{"port": 0, "grace": 5.0, **settings})
        bound, ready = bind(made), threading.Event()
        try:
            application = make_application(list(systems), made, keys, local=local)
        except Exception:
            bound.close()
            raise
        server = Server(application, made, on_start=ready.set)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        assert ready.wait(60)
        running.append(Running(server, address_of(bound), thread, list(systems)))
        return running[-1]

    yield begin
    for one in running:
        one.stop()
    close_engines()


@pytest.fixture(scope="module")
def tiny(tiny_model_folder: Path) -> System:
    return System.load({"model": str(tiny_model_folder), "name": "tiny", "max_tokens": 24})


@pytest.fixture(scope="session")
def long_model_folder(tiny_model: Any) -> Path:
    """A tiny model whose context holds 16,384 tokens, so that answers take a while."""
    folder: Path = tiny_model(max_position_embeddings=16384)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 16384}))
    return folder


@pytest.fixture(scope="module")
def patient(long_model_folder: Path) -> System:
    return System.load({"model": str(long_model_folder), "name": "patient", "max_tokens": 16000})


@pytest.fixture(scope="module")
def blocks_guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a guard of another package, which shows text in blocks."""
    root = tmp_path_factory.mktemp("packages")
    write_method_package(root, "acme_blocks", "blocks", room="guard", name="blocks", source=GUARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        registry.forget()
        yield "blocks/blocks"
    registry.forget()
    for name in [name for name in sys.modules if name.startswith("acme_blocks")]:
        del sys.modules[name]
    registry._registered.pop("guard/blocks/blocks", None)
    shutil.rmtree(root)


def user(text: str = "Hello") -> list[Any]:
    return [{"role": "user", "content": text}]
