"""RAIN: our program in the engine against the same algorithm done the way of the released code.

Embedded model, float32, real prompts, the same search budget and the same random numbers. ``peers/rain.py``
is the official way. The released code proposes below every leaf at its first visit, ours where the search
comes by again: ``times_official`` counts those proposals, and ``times_official_spared`` does not, so that
what is left of it is batching and the KV tree. ``times_official_together`` runs our prompts at once, since
the official way has batch 1 alone.

Equal choices are checked first: both must commit the same token sets after the same number of searches with
the same visits. ``tokens_over_minimum``: token positions that went through the model, divided by the distinct
prefixes among all that the searches asked for. Time is processor time of one thread, which other programs
disturb less than wall time.
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmarks.common import real_prompts, report
from benchmarks.peers.rain import Official

from trivet.decode.rain import Config, program
from trivet.models.operations import Extend, Hidden, Next, Program, ProgramContext, Several, Tokens

PROMPTS, MAX_TOKENS, SEED = 2, 16, 1
BUDGET = Config.model_validate({"searches": 8, "least_searches": 4})
LIMITS = {"times_official": (5.0, "at least"), "tokens_over_minimum": (1.3, "at most")}


@dataclass
class Needed:
    """The distinct prefixes that searches ask for: a trie of tokens; ``count``: how many there are."""

    count: int = 0
    trie: dict[int, Any] = field(default_factory=dict)

    def add(self, tokens: Tokens) -> None:
        """Note a prefix with all its beginnings."""
        node = self.trie
        for token in tokens:
            if token not in node:
                node[token] = {}
                self.count += 1
            node = node[token]


@dataclass
class Watched:
    """RAIN, noting in ``needed`` what has to go through the model, and its trace in ``steps``."""

    config: Config
    needed: Needed = field(default_factory=Needed)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, context: ProgramContext) -> Program:
        running, result = program(self.config, context), None
        while True:
            try:
                operation = running.send(result)
            except StopIteration:
                self.steps = context.trace[0]["steps"]
                return
            result = yield operation
            parts = operation.operations if isinstance(operation, Several) else (operation,)
            results = result if isinstance(operation, Several) else [result]
            for part, found in zip(parts, results):
                if isinstance(part, Extend):
                    for one in found:  # the last token is fed only where the end of the sequence followed it
                        fed = one.tokens if one.stop_reason == "stop" else one.tokens[:-1]
                        self.needed.add(part.prefix + fed)
                elif isinstance(part, Next):
                    self.needed.add(part.prefix)
                elif isinstance(part, Hidden):
                    self.needed.add(part.tokens)


@dataclass
class Clock:
    """Processor and wall time of a block."""

    processor: float = 0.0
    wall: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        processor, wall = time.process_time(), time.perf_counter()
        yield
        self.processor += time.process_time() - processor
        self.wall += time.perf_counter() - wall


def run(prompts: int = PROMPTS, max_tokens: int = MAX_TOKENS, config: Config = BUDGET) -> dict[str, Any]:
    """Figures of both ways for the same prompts, budget and seed."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trivet.models import embedded
    from trivet.models.engine import Request
    from trivet.models.names import resolve_model
    from trivet.models.torch_engine import TorchEngine

    folder = embedded.folder() or embedded.pull()
    chats = [[{"role": "user", "content": text}] for text in real_prompts(prompts, longest=200)]
    needed = Needed()
    watched = [Watched(config, needed) for _ in chats]
    requests = [Request(chat, watch, seed=SEED, max_tokens=max_tokens) for chat, watch in zip(chats, watched)]
    engine = TorchEngine(resolve_model(embedded.NAME))
    alone, together, forwarded, answers = Clock(), Clock(), 0, []
    try:
        for request in requests:
            with alone.running():
                done = engine.submit(request).result()
            forwarded += done.usage.forward_tokens
            answers.append(done.continuation.tokens)
        engine._runner.tree.clear()
        with together.running():
            for handle in [engine.submit(request) for request in requests]:
                handle.result()
    finally:
        engine.close()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    official = Official(model, AutoTokenizer.from_pretrained(folder), config)
    spared, unseen, equal, searches = Clock(), Clock(), 0, 0
    for chat, watch, answer in zip(chats, watched, answers):
        with torch.inference_mode():
            with spared.running():
                steps = official.answer(chat, SEED, max_tokens)
            with unseen.running():
                official.propose_unseen()
        searches += sum(step["searches"] for step in steps)
        equal += same(steps, watch.steps, answer)
    whole = spared.processor + unseen.processor
    return {
        "prompts": len(chats),
        "max_tokens": max_tokens,
        "searches": searches,
        "equal_choices": equal,
        "times_official": round(whole / alone.processor, 2),
        "times_official_together": round(whole / together.processor, 2),
        "times_official_spared": round(spared.processor / alone.processor, 2),
        "times_official_wall": round((spared.wall + unseen.wall) / alone.wall, 2),
        "processor_seconds_per_search": round(alone.processor / searches, 3),
        "official_processor_seconds_per_search": round(whole / searches, 3),
        "tokens_forwarded": forwarded,
        "tokens_needed": needed.count,
        "tokens_over_minimum": round(forwarded / needed.count, 3),
        "official_tokens_forwarded": official.forwarded,
    }


def same(official: list[dict[str, Any]], ours: list[dict[str, Any]], answer: Tokens) -> bool:
    """Whether both searched as often, visited the same candidates as often and chose the same."""
    if tuple(token for step in official for token in step["tokens"]) != answer or len(official) != len(ours):
        return False
    for theirs, mine in zip(official, ours):
        visits = [(child["tokens"], child["full_visits"]) for child in mine["candidates"]]
        if theirs["searches"] != mine["rewinds"]:
            return False
        if sorted(visits) != sorted((len(tokens), fn) for tokens, _, fn in theirs["visits"]):
            return False
    return True


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks decode_rain", description=__doc__)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    options = parser.parse_args(arguments)
    report("decode_rain", run(options.prompts, options.max_tokens), LIMITS)
