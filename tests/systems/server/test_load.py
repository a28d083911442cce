"""Load: 200 streams at once, clients that vanish, a slow one, and mistakes; nothing is left after it."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from tests.systems.server.conftest import NEVER_STOP, user

STREAMS, VANISHING, TOKENS, ROUNDS = 200, 40, 40, 4
GROWTH = 32 * 1024**2
"""Bytes by which the server's process may grow between the first round and the last: 44 kB an answer, for
what the allocator does not give back."""
NO_KERNEL_CACHE = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0", "LRU_CACHE_CAPACITY": "1"}
"""PyTorch and oneDNN keep up to 1,024 compiled kernels, one for each shape of a batch: 100 MB that take many
rounds to fill, and would hide a leak."""
CHAT = "/v1/chat/completions"
BIG = b'{"model": "patient", "messages": [{"role": "user", "content": "' + b"a" * 10_000_000 + b'"}]}'


@pytest.fixture
def server(long_model_folder: Path, tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """``trivet serve``: its address without ``/v1``, and its process."""
    path = tmp_path / "patient.yaml"
    path.write_text(f"model: {long_model_folder}\nmax_tokens: 16000\n", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "trivet", "serve", str(path), "--port", "0", "--queue", "300",
         "--body-limit", str(1024**2)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **NO_KERNEL_CACHE},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        found = None
        while not found:
            line = process.stderr.readline()
            assert line, "the server ended"
            found = re.search(r"Serving patient at (http\S+)/v1;", line)
        yield found[1], psutil.Process(process.pid)
        process.terminate()
        assert process.communicate(timeout=60)[1] == "", "nothing is logged, whatever clients do"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def asked(number: int, **options: Any) -> dict[str, Any]:
    return {
        "model": "patient", "messages": user(f"Question {number}"), "seed": number, "temperature": 1.0,
        "logit_bias": NEVER_STOP, "stream": True, **options,
    }  # fmt: skip


async def whole(client: openai.AsyncOpenAI, number: int) -> str:
    text, reason = "", None
    async for chunk in await client.chat.completions.create(**asked(number, max_tokens=TOKENS)):
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    assert reason == "length"
    return text


async def vanishing(client: openai.AsyncOpenAI, number: int) -> None:
    stream = await client.chat.completions.create(**asked(1000 + number, max_tokens=16000))
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()


async def mistakes(url: str) -> Counter[int]:
    headers = {"Content-Type": "application/json"}
    seen: Counter[int] = Counter()
    async with httpx.AsyncClient(timeout=300) as client:
        for _ in range(5):
            answers = await asyncio.gather(
                client.post(url, content=b'{"model": ', headers=headers),
                client.post(url, content=BIG, headers=headers),
                client.post(url, json={**asked(0), "model": "nobody"}),
                client.post(url, json={**asked(0), "temperature": -1}),
            )
            seen.update(answer.status_code for answer in answers)
    return seen


def slow_reader(root: str, result: list[bytes]) -> None:
    """Reads nothing for a while, then a little at a time."""
    host, port = root.removeprefix("http://").split(":")
    body = json.dumps(asked(5000, max_tokens=600)).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(300)
        connection.connect((host, int(port)))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(3)
        while piece := connection.recv(2048):
            result[0] += piece
            time.sleep(0.001)


async def round_of_load(root: str) -> tuple[list[str], Counter[int], float]:
    """Texts of the streams, statuses of the mistakes, and the most answers that ran or waited at once."""
    peak, ended = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal peak
        async with httpx.AsyncClient(timeout=300) as client:
            while not ended.is_set():
                text = (await client.get(f"{root}/metrics")).text
                peak = max(peak, gauge(text, 'trivet_queue_length{model="patient"}'))
                await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    async with openai.AsyncOpenAI(
        base_url=f"{root}/v1", api_key="none", max_retries=0, timeout=300
    ) as client:
        streams = asyncio.gather(*(whole(client, number) for number in range(STREAMS)))
        leaving = asyncio.gather(*(vanishing(client, number) for number in range(VANISHING)))
        texts, _, seen = await asyncio.gather(streams, leaving, mistakes(root + CHAT))
    ended.set()
    await watching
    return list(texts), seen, peak


def gauge(text: str, name: str) -> float:
    return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[-1])


def wait_until_idle(root: str) -> None:
    deadline = time.monotonic() + 60
    for name in ("trivet_requests_in_progress", 'trivet_queue_length{model="patient"}'):
        while gauge(httpx.get(f"{root}/metrics").text, name):
            assert time.monotonic() < deadline, f"{name} does not fall to 0"
            time.sleep(0.1)


@pytest.mark.slow
def test_load_leaves_nothing_behind(server: tuple[str, psutil.Process]) -> None:
    root, process = server
    memory: list[int] = []
    first: list[str] = []
    for number in range(ROUNDS):
        slow = [b""]
        reader = threading.Thread(target=slow_reader, args=(root, slow))
        reader.start()
        texts, seen, peak = asyncio.run(round_of_load(root))
        reader.join()
        assert seen == Counter({400: 10, 413: 5, 404: 5})
        assert peak >= STREAMS / 2, "too few answers ran at once"
        assert slow[0].startswith(b"HTTP/1.1 200") and b"data: [DONE]" in slow[0]
        first = first or texts
        assert texts == first, "an answer depends on what else runs"
        wait_until_idle(root)
        memory.append(process.memory_info().rss)
        print(f"round {number}: {peak:.0f} answers at once, {memory[-1] / 1e6:.0f} MB")
    assert memory[-1] - memory[0] < GROWTH
    assert process.num_threads() < 16
    deadline = time.monotonic() + 30
    while len(process.net_connections("tcp")) > 1:  # the socket that listens
        assert time.monotonic() < deadline, "connections are left"
        time.sleep(0.1)
    started = time.perf_counter()
    asked_last = {**asked(0), "stream": False, "max_tokens": 2}
    assert httpx.post(root + CHAT, json=asked_last, timeout=60).status_code == 200
    assert time.perf_counter() - started < 10, "the engine still works on what nobody waits for"
