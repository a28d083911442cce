"""What clients do wrong over HTTP: each mistake has its status and says what it was."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from tests.systems.server.conftest import Running, Start, user

from trivet.systems import System

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def running(start: Start, tiny: System) -> Running:
    return start(tiny, body_bytes=1024**2)


def error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    inner: dict[str, Any] = body["error"]
    return inner


def test_malformed_json(running: Running) -> None:
    response = running.post(CHAT, content=b'{"model": ', headers=JSON)
    assert response.status_code == 400
    assert error(response)["code"] == "invalid_json"


def test_an_unknown_model_is_named_with_the_nearest(running: Running) -> None:
    client = running.client()
    with pytest.raises(openai.NotFoundError, match="did you mean 'tiny'") as caught:
        client.chat.completions.create(model="tinny", messages=user())
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_unknown_paths_and_methods(running: Running) -> None:
    response = running.post("/v1/embeddings", json={})
    assert response.status_code == 404 and error(response)["code"] == "not_found"
    response = httpx.get(running.root + CHAT)
    assert response.status_code == 405 and error(response)["message"] == "Method Not Allowed"


def test_a_body_that_is_not_sent_as_json(running: Running) -> None:
    response = running.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"})
    assert response.status_code == 415 and "Content-Type: application/json" in error(response)["message"]


class TestTooLarge:
    """10 MB against a limit of 1 MiB."""

    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "' + b"a" * 10_000_000 + b'"}]}'

    def test_with_a_content_length(self, running: Running) -> None:
        response = running.post(CHAT, content=self.body, headers=JSON)
        assert response.status_code == 413 and error(response)["code"] == "request_too_large"

    def test_in_chunks_without_one(self, running: Running) -> None:
        def chunks() -> Iterator[bytes]:
            for start in range(0, len(self.body), 65536):
                yield self.body[start : start + 65536]

        response = running.post(CHAT, content=chunks(), headers=JSON)
        assert response.status_code == 413

    def test_a_huge_one_is_refused_before_it_is_sent(self, running: Running) -> None:
        for head in (
            b"Content-Length: 99999999999\r\n",
            b"Content-Length: 9999999\r\nExpect: 100-continue\r\n",
        ):
            request = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" + head
            request += b"Content-Type: application/json\r\n\r\n"
            assert b" 413 " in raw(running, request).split(b"\r\n")[0]


def raw(running: Running, request: bytes) -> bytes:
    """What the server answers to bytes, until it closes the connection."""
    host, port = running.root.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def test_what_the_system_refuses(running: Running) -> None:
    client = running.client()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    for options, says in (
        ({"messages": [{"role": "user", "content": [image]}]}, "images"),
        ({"messages": user("word " * 600)}, "context"),
        ({"logit_bias": {"5000": 1.0}}, "outside the vocabulary"),
        ({"tools": [{"type": "function", "function": {"name": "add"}}]}, "tools"),
    ):
        asked: dict[str, Any] = {"model": "tiny", "messages": user(), **options}  # type: ignore[dict-item]
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match=says):
                client.chat.completions.create(**asked, stream=stream)
    running.settle()


def test_a_seed_is_a_seed_up_to_the_largest(running: Running) -> None:
    asked = {"model": "tiny", "messages": user(), "seed": 2**63 - 1, "max_tokens": 2, "temperature": 1.0}
    assert running.post(CHAT, json=asked).status_code == 200
    assert running.post(CHAT, json={**asked, "seed": 2**63}).status_code == 400


def test_an_answer_may_not_be_longer_than_the_context(running: Running) -> None:
    asked = {"model": "tiny", "messages": user(), "max_tokens": 10**15, "logit_bias": {"2": -100}}
    made = running.post(CHAT, json=asked).json()
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["usage"]["total_tokens"] == 512
