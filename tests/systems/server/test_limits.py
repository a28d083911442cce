"""Back-pressure, time limits, clients that leave, and the graceful stop."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.systems.server.conftest import NEVER_STOP, Running, Start, user

from trivet.systems import System
from trivet.systems.server.errors import RequestError
from trivet.systems.server.limits import Course, EndedEarlyError, Places

CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {"model": "patient", "messages": user(), "logit_bias": NEVER_STOP}


@pytest.fixture(scope="module")
def running(start: Start, patient: System) -> Running:
    return start(patient, queue=4)


def begin_stream(running: Running, **options: Any) -> Any:
    """A stream that has shown its first text."""
    stream = running.client(timeout=60).chat.completions.create(**LONG, stream=True, **options)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            return stream
    raise AssertionError("the stream ended")


def test_a_full_queue_says_when_to_come_back(running: Running) -> None:
    streams = [begin_stream(running, n=2) for _ in range(2)]
    response = running.post(CHAT, json=LONG)
    assert response.status_code == 429
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert response.json()["error"]["code"] == "queue_full"
    with pytest.raises(openai.RateLimitError):
        running.client().chat.completions.create(**LONG, stream=True)
    metrics = httpx.get(f"{running.root}/metrics").text
    assert 'trivet_queue_length{model="patient"} 4' in metrics
    for stream in streams:
        stream.close()
    running.settle()
    assert running.post(CHAT, json={**LONG, "max_tokens": 2}).status_code == 200


def test_more_choices_than_the_queue_holds_can_never_be_answered(running: Running) -> None:
    response = running.post(CHAT, json={**LONG, "n": 5})
    assert response.status_code == 400 and response.json()["error"]["param"] == "n"


def tasks(running: Running) -> int:
    """Tasks of the server's event loop."""
    found: list[int] = []
    done = threading.Event()

    def count() -> None:
        found.append(len(asyncio.all_tasks()))
        done.set()

    running.state.bridge.post(count)
    assert done.wait(10)
    return found[0]


def test_a_stream_whose_client_leaves_is_cancelled(running: Running) -> None:
    before = tasks(running)
    stream = begin_stream(running)
    assert running.live() == 1
    stream.close()
    running.settle()
    assert 'status="499"' in httpx.get(f"{running.root}/metrics").text
    deadline = time.monotonic() + 10
    while tasks(running) > before or running.state.courses:
        assert time.monotonic() < deadline, "a task is left"
        time.sleep(0.02)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_leaves_before_anything_came_is_cancelled(running: Running, streamed: bool) -> None:
    host, port = running.root.removeprefix("http://").split(":")
    body = json.dumps({**LONG, "stream": streamed, "n": 2}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    deadline = time.monotonic() + 20
    while running.live() < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    connection.close()
    running.settle()


def test_a_client_that_leaves_in_the_middle_of_its_body(running: Running) -> None:
    host, port = running.root.removeprefix("http://").split(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: 5000\r\n\r\n{{".encode())
    assert httpx.get(f"{running.root}/healthz").json() == {"status": "ok"}


def test_the_time_limit_is_504_or_the_last_event_of_a_stream(start: Start, patient: System) -> None:
    running = start(patient, time_limit=1.0)
    response = running.post(CHAT, json=LONG)
    assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
    with pytest.raises(openai.APIError, match="longer than this server allows"):
        for _ in running.client().chat.completions.create(**LONG, stream=True):
            pass
    running.settle()
    deadline = time.monotonic() + 10
    counted = 'trivet_requests_total{endpoint="/v1/chat/completions",model="patient",status="504"} 2'
    while counted not in httpx.get(f"{running.root}/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_client_that_does_not_read_is_given_up(
    start: Start, patient: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivet.systems.server.running._DEAD_AFTER", 4)
    running = start(patient)
    host, port = running.root.removeprefix("http://").split(":")
    options = {"n": 3, "max_tokens": 1500, "logprobs": True, "top_logprobs": 20}  # about 8 MB of JSON
    body = json.dumps({**LONG, **options}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        connection.recv(100)
        connections, deadline = running.server.server_state.connections, time.monotonic() + 60
        assert connections
        while connections:
            assert time.monotonic() < deadline, "the connection is still there"
            time.sleep(0.1)
    running.settle()


def test_the_engines_own_queue_counts_too(start: Start, tiny_model_folder: Path) -> None:
    from trivet.models.names import resolve_model
    from trivet.models.torch_engine import TorchEngine
    from trivet.systems import SystemSpec

    engine = TorchEngine(resolve_model(str(tiny_model_folder)), queue_size=2)
    try:
        spec = SystemSpec(model=str(tiny_model_folder), name="narrow")
        running = start(System(spec, engine=engine))
        response = running.post(CHAT, json={"model": "narrow", "messages": user(), "n": 3})
        assert response.status_code == 429 and "Retry-After" in response.headers
        running.settle()
        assert running.post(CHAT, json={"model": "narrow", "messages": user(), "n": 2}).status_code == 200
    finally:
        engine.close()


def test_a_body_that_does_not_come_is_408(start: Start, tiny: System) -> None:
    running = start(tiny, time_limit=0.3)
    host, port = running.root.removeprefix("http://").split(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: 50\r\n\r\n{{".encode())
        assert b" 408 " in connection.recv(65536).split(b"\r\n")[0]


@pytest.mark.parametrize(("grace", "finishes"), [(60.0, True), (0.2, False)])
def test_a_stop_lets_requests_finish_within_the_grace_period(
    start: Start, patient: System, grace: float, finishes: bool
) -> None:
    running = start(patient, grace=grace)
    count = 200 if finishes else 16000
    stream = begin_stream(running, max_tokens=count, stream_options={"include_usage": True})
    running.server.should_exit = True
    if finishes:
        chunks = list(stream)
        assert chunks[-1].usage.completion_tokens == count
    else:
        with pytest.raises(openai.APIError, match="the server is stopping"):
            list(stream)
    running.thread.join(30)
    assert not running.thread.is_alive()
    assert running.live() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.root}/healthz")


SCRIPT = """
import sys
from trivet.systems import System
from trivet.systems.server import ServerSettings, address_of, bind, make_server
system = System.load({"model": sys.argv[1], "name": "patient", "max_tokens": 16000})
settings = ServerSettings(port=0, grace=float(sys.argv[2]))
bound = bind(settings)
started = lambda: print(address_of(bound), flush=True)
make_server([system], settings, None, bound, on_start=started).run([bound])
print("stopped", system.engine._live, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_the_process_gracefully(long_model_folder: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(long_model_folder), "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(**LONG, stream=True)
            next(iter(stream))
            process.send_signal(number)
            with pytest.raises(openai.APIError, match="the server is stopping"):
                list(stream)
        out, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert out.strip() == "stopped 0" and errors == ""
    finally:
        process.kill()
        process.wait()


def test_many_requests_need_no_thread_each(start: Start, tiny: System) -> None:
    running = start(tiny)
    before = threading.active_count()
    most = 0

    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        nonlocal most
        answer = await client.chat.completions.create(
            model="tiny", messages=user(), seed=number, temperature=1.0, max_tokens=6
        )
        most = max(most, threading.active_count())
        return answer.choices[0].message.content or ""

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=running.url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(100)))

    texts = asyncio.run(main())
    assert len(set(texts)) > 20
    assert most <= before + 20, "the server's four and the client's own look-ups"


class TestPlaces:
    """A place for each answer."""

    def test_they_are_taken_together_or_not_at_all(self) -> None:
        places = Places(3)
        places.take(2)
        with pytest.raises(RequestError) as caught:
            places.take(2)
        assert caught.value.status == 429 and places.taken == 2
        places.give_back()
        places.take(2)
        assert places.taken == 3

    def test_the_wait_follows_what_answers_took(self) -> None:
        places = Places(1)
        assert places.retry_after == 1
        for _ in range(100):
            places.note(20.0)
        assert places.retry_after == 20
        for _ in range(100):
            places.note(1000.0)
        assert places.retry_after == 60


class TestCourse:
    """The time of a request."""

    def test_its_reason(self) -> None:
        async def run(seconds: float, reason: Any) -> str:
            course = Course(seconds)
            try:
                async with course:
                    if reason:
                        course.end(reason)
                    await asyncio.sleep(5)
            except EndedEarlyError as end:
                return end.reason
            return "complete"

        assert asyncio.run(run(0.01, None)) == "time limit"
        assert asyncio.run(run(5, "client left")) == "client left"

    def test_what_is_complete_cannot_be_ended_and_other_errors_pass(self) -> None:
        async def run() -> None:
            course = Course(5)
            async with course:
                course.complete = True
                course.end("client left")
                await asyncio.sleep(0.01)
            course.end("stopping")
            with pytest.raises(TimeoutError):
                async with Course(5):
                    raise TimeoutError

        asyncio.run(run())
