"""Serving: 32 concurrent clients of ``trivet serve`` against the same requests put to the engine in process.

Embedded model, float32, real prompts, greedy, at most 128 tokens each. The server and its clients are
processes of their own (``openai``'s asynchronous client, streaming); 32 requests are kept under way in both
cases, on the same machine, after a warm-up. The texts are compared; they may part at near-ties, since batches
differ. Runs go A B B A and a figure is the mean of its runs. Time to first token is what a client sees.
``processor_time_of_engine`` is the processor time a token of the engine alone over that of the server's
process, without the clients: the share that other programs hardly disturb.

``--once`` only A B, ``--prompts N`` asks fewer, ``--tokens N`` for shorter answers.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from benchmarks.common import real_prompts, report

CLIENTS, PROMPTS, TOKENS = 32, 64, 128
MODEL = "smollm2-135m-instruct"
LIMITS = {"times_in_process": (0.9, "at least")}


def in_process(prompts: list[str], tokens: int) -> dict[str, Any]:
    """Ask the system itself, ``CLIENTS`` requests at a time; runs in a process of its own."""
    from trivet.systems import System

    system = System.load(MODEL).open()
    system.answer_sync("Hello", max_tokens=4)

    async def main() -> list[Any]:
        waiting = asyncio.Semaphore(CLIENTS)

        async def ask(prompt: str) -> Any:
            async with waiting:
                return await system.answer(prompt, max_tokens=tokens, on_text=lambda piece: None)

        return list(await asyncio.gather(*map(ask, prompts)))

    started, processor = time.perf_counter(), time.process_time()
    answers = asyncio.run(main())
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "tokens": sum(answer.usage.completion_tokens for answer in answers),
        "texts": [answer.text for answer in answers],
        "first": [answer.seconds_to_first_token for answer in answers],
    }


def clients(prompts: list[str], tokens: int, url: str, server: int) -> dict[str, Any]:
    """Ask a server (its process's number) from ``CLIENTS`` clients; runs in a process of its own."""
    import openai

    def processor_seconds() -> float:
        times = psutil.Process(server).cpu_times()
        return float(times.user + times.system)

    async def main() -> tuple[float, float, list[Any]]:
        waiting = asyncio.Semaphore(CLIENTS)
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:

            async def ask(prompt: str, limit: int) -> tuple[str, int, float]:
                async with waiting:
                    asked, first, text, used = time.perf_counter(), 0.0, "", 0
                    stream = await client.chat.completions.create(
                        model=MODEL,
                        messages=[{"role": "user", "content": prompt}],
                        max_tokens=limit,
                        stream=True,
                        stream_options={"include_usage": True},
                    )
                    async for chunk in stream:
                        for choice in chunk.choices:
                            if choice.delta.content:
                                first = first or time.perf_counter() - asked
                                text += choice.delta.content
                        used = chunk.usage.completion_tokens if chunk.usage else used
                    return text, used, first

            await asyncio.gather(*(ask("Hello", 4) for _ in range(CLIENTS)))  # connections and imports
            started, processor = time.perf_counter(), processor_seconds()
            answers = await asyncio.gather(*(ask(prompt, tokens) for prompt in prompts))
            seconds = time.perf_counter() - started
            return seconds, processor_seconds() - processor, list(answers)

    seconds, processor, answers = asyncio.run(main())
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "tokens": sum(used for _, used, _ in answers),
        "texts": [text for text, _, _ in answers],
        "first": [first for _, _, first in answers if first],
    }


def child(role: str, prompts: list[str], tokens: int, url: str = "", server: int = 0) -> dict[str, Any]:
    """Run a part in a process of its own, so that neither has the other's memory or threads."""
    task = json.dumps({"role": role, "prompts": prompts, "tokens": tokens, "url": url, "server": server})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serve"],
        input=task,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    if done.returncode:
        sys.exit(f"{role} failed: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def serving() -> Iterator[tuple[str, int]]:
    """``trivet serve`` of the embedded model; the base URL and the number of its process."""
    command = [sys.executable, "-m", "trivet", "serve", MODEL, "--engine", "torch", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = ""
        while not line.startswith("Serving"):
            line = process.stderr.readline()
            if not line:
                sys.exit("the server ended before it served")
        yield line.split(" at ")[1].split(";")[0], process.pid
    finally:
        process.terminate()
        process.wait(60)


def served(prompts: list[str], tokens: int) -> dict[str, Any]:
    """A fresh server, so that no run finds the prompts of another in the prefix tree."""
    with serving() as (url, process):
        return child("clients", prompts, tokens, url, process)


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks serve", description=__doc__)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    prompts = real_prompts(options.prompts)
    order = ["in_process", "server"] if options.once else ["in_process", "server", "server", "in_process"]
    runs: dict[str, list[dict[str, Any]]] = {"in_process": [], "server": []}
    for name in order:
        run = served(prompts, options.tokens) if name == "server" else child(name, prompts, options.tokens)
        runs[name].append(run)
        rate = run["tokens"] / run["seconds"]
        print(
            f"{name}: {run['tokens']} tokens in {run['seconds']:.1f} s, {rate:.1f} tokens/s, "
            f"{run['processor_seconds']:.1f} s of processor time",
            flush=True,
        )
    rates = {
        name: float(np.mean([run["tokens"] / run["seconds"] for run in found]))
        for name, found in runs.items()
    }
    costs = {
        name: float(np.mean([run["processor_seconds"] / run["tokens"] for run in found]))
        for name, found in runs.items()
    }
    first = {name: [value for run in found for value in run["first"]] for name, found in runs.items()}
    pairs = zip(runs["server"][0]["texts"], runs["in_process"][0]["texts"])
    figures: dict[str, Any] = {
        "clients": CLIENTS,
        "prompts": options.prompts,
        "max_tokens": options.tokens,
        "parted": sum(one != other for one, other in pairs),
        "tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "times_in_process": round(rates["server"] / rates["in_process"], 3),
        "processor_time_of_engine": round(costs["in_process"] / costs["server"], 3),
        "first_token_p50_seconds": {name: round(float(np.quantile(v, 0.5)), 3) for name, v in first.items()},
        "first_token_p95_seconds": {name: round(float(np.quantile(v, 0.95)), 3) for name, v in first.items()},
    }
    report("serve", figures, LIMITS)


if __name__ == "__main__":
    task = json.loads(sys.stdin.read())
    if task["role"] == "clients":
        print(json.dumps(clients(task["prompts"], task["tokens"], task["url"], task["server"])))
    else:
        print(json.dumps(in_process(task["prompts"], task["tokens"])))
