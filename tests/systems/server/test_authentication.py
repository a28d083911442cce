"""API keys, and the server that has none."""

from pathlib import Path

import httpx
import openai
import pytest
from tests.systems.server.conftest import Running, Start

from trivet.errors import ConfigError
from trivet.systems import System
from trivet.systems.server import Keys, read_keys


@pytest.fixture(scope="module")
def running(start: Start, tiny: System) -> Running:
    return start(tiny, keys=Keys(["first", "zweiter-schlüssel"]))


def status(running: Running, path: str, *, key: bytes | None = None, **headers: str) -> int:
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    given += [(b"Authorization", key)] if key is not None else []
    return httpx.get(running.root + path, headers=given).status_code


def test_each_key_lets_in_and_nothing_else_does(running: Running) -> None:
    assert [model.id for model in running.client(api_key="first").models.list()] == ["tiny"]
    assert status(running, "/v1/models", key="Bearer zweiter-schlüssel".encode()) == 200
    assert status(running, "/v1/models", key=b"bearer first") == 200
    for key in (None, b"", b"Bearer", b"Bearer firs", b"Bearer first2", b"Basic first", b"first"):
        assert status(running, "/v1/models", key=key) == 401
    with pytest.raises(openai.AuthenticationError, match="needs an API key") as caught:
        running.client(api_key="wrong").models.list()
    assert caught.value.code == "invalid_api_key"
    assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"


def test_health_needs_no_key_and_metrics_do(running: Running) -> None:
    assert status(running, "/healthz") == 200
    assert status(running, "/metrics") == 401
    assert status(running, "/metrics", key=b"Bearer first") == 200


def test_without_keys_only_names_of_this_machine_are_answered(start: Start, tiny: System) -> None:
    local = start(tiny)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:80", "127.1.2.3:1"):
        assert status(local, "/v1/models", Host=host) == 200
    for host in ("evil.example", "localhost.evil.example:8000", "10.0.0.1", "[", ""):
        assert status(local, "/v1/models", Host=host) == 403
    open_to_all = start(tiny, local=False)
    assert status(open_to_all, "/v1/models", Host="models.example") == 200


def test_keys_come_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEYS", "one, two\nthree")
    path = tmp_path / "keys.txt"
    path.write_text("# ours\n\n four \n", encoding="utf-8")
    keys = read_keys(variable="SOME_KEYS", path=path)
    assert all(keys.allow(f"Bearer {key}".encode()) for key in ("one", "two", "three", "four"))
    assert not keys.allow(b"Bearer # ours")
    monkeypatch.setenv("SOME_KEYS", " ,")
    with pytest.raises(ConfigError, match="SOME_KEYS holds no key"):
        read_keys(variable="SOME_KEYS")
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="holds no key"):
        read_keys(path=path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(path=tmp_path / "gone")
