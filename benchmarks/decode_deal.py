"""DeAL: what a lookahead search costs beside greedy decoding, and what it buys.

Embedded model, float32, processor time of one thread and wall time, by the number of candidates k and the
lookahead l. Equal choices are checked first: with one candidate, and without weight, the search must give the
greedy answer. ``tokens_over_minimum``: token positions that went through the model, divided by the distinct
prefixes among all texts whose next-token distribution the search asked for, which is what any cache could
spare at best. ``times_greedy``: time for each token of the answer against plain greedy decoding.

``coverage`` is CommonGen's task on sets of concepts, greedy against the search by lookahead, with the paired
sign test of the sets that differ.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmarks.common import report
from scipy.stats import binomtest

from trivet.decode._objectives import coverage
from trivet.decode.deal import Config, program
from trivet.models.engine import Completion, Request
from trivet.models.operations import Extend, Next, Program, ProgramContext, Several, Tokens

LIMITS = {"tokens_over_minimum": (1.2, "at most")}
SETTINGS = ((1, 0), (4, 4), (8, 4), (8, 16))
PROMPTS, MAX_TOKENS, SETS = 2, 16, 0
AHEAD = (0, 4, 16)
NOUNS = (
    "dog", "girl", "farmer", "river", "bridge", "kitchen", "teacher", "train", "garden", "horse", "window",
    "market", "ball", "mountain", "bird", "guitar",
)  # fmt: skip
VERBS = ("catch", "paint", "carry", "watch", "throw", "build", "clean", "open", "cross", "play")


@dataclass(eq=False)
class Watched:
    """A program under watch: which texts' next-token distributions it asks for."""

    inner: Any
    read: set[Tokens] = field(default_factory=set)

    def __call__(self, context: ProgramContext) -> Program:
        """The program."""
        running = self.inner(context)
        result: Any = None
        while True:
            try:
                operation = running.send(result)
            except StopIteration:
                return
            result = yield operation
            for one, given in self._computed(operation, result):
                self.read.add(one.prefix)
                if isinstance(one, Extend):
                    ended = given[0].stop_reason == "stop"
                    drawn = given[0].tokens
                    self.read.update((*one.prefix, *drawn[:at]) for at in range(len(drawn) + ended))

    @staticmethod
    def _computed(operation: Any, result: Any) -> list[tuple[Any, Any]]:
        if isinstance(operation, Several):
            return list(zip(operation.operations, result, strict=True))
        return [(operation, result)] if isinstance(operation, Extend | Next) else []

    @property
    def minimum(self) -> int:
        """Token positions that a perfect cache feeds: the distinct beginnings of what was read."""
        beginnings: set[Tokens] = set()
        for text in sorted(self.read, key=len, reverse=True):
            for length in range(len(text), 0, -1):
                if text[:length] in beginnings:
                    break
                beginnings.add(text[:length])
        return len(beginnings)


@dataclass
class Run:
    """One way of decoding over all prompts."""

    answers: list[Completion]
    minimum: int
    processor: float
    wall: float

    @property
    def tokens(self) -> int:
        """Tokens of the answers."""
        return sum(len(answer.continuation.tokens) for answer in self.answers)

    @property
    def forwarded(self) -> int:
        """Token positions that went through the model."""
        return sum(answer.usage.forward_tokens for answer in self.answers)


def concept_sets(count: int) -> list[tuple[str, ...]]:
    """Sets of three nouns and a verb."""
    draw = random.Random(0)
    return [(*draw.sample(NOUNS, 3), draw.choice(VERBS)) for _ in range(count)]


def question(concepts: Sequence[str]) -> str:
    """CommonGen's task."""
    return f"Write one short sentence with the words: {', '.join(concepts)}."


def search(concepts: Sequence[str], candidates: int, lookahead: int, weight: float) -> Any:
    """The program that looks for the concepts."""
    config = Config.model_validate(
        {
            "objectives": [{"type": "keywords", "concepts": list(concepts)}],
            "candidates": candidates,
            "lookahead": lookahead,
            "heuristic_weight": weight,
        }
    )
    return lambda context: program(config, context)


def greedy(context: ProgramContext) -> Program:
    """Plain greedy decoding."""
    yield Extend(context.prompt, context.max_tokens, commit=True)


def decode(engine: Any, programs: Sequence[tuple[str, Any]], max_tokens: int) -> Run:
    """Answer each (prompt, program), one after the other, each without what the ones before have computed."""
    answers, minimum, processor, wall = [], 0, 0.0, 0.0
    for prompt, inner in programs:
        engine._runner.tree.clear()
        watched = Watched(inner)
        request = Request([{"role": "user", "content": prompt}], watched, seed=0, max_tokens=max_tokens)
        started = time.process_time(), time.perf_counter()
        answers.append(engine.submit(request).result())
        processor += time.process_time() - started[0]
        wall += time.perf_counter() - started[1]
        minimum += watched.minimum
    return Run(answers, minimum, processor, wall)


def cost(engine: Any, prompts: int, max_tokens: int) -> dict[str, Any]:
    """Tokens over the minimum, and time for each token of the answer, by k and l."""
    sets = concept_sets(prompts)
    decode(engine, [("Hello", greedy)], 4)  # warm
    plain = [decode(engine, [(question(one), greedy) for one in sets], max_tokens)]
    runs: dict[str, Run] = {}
    for candidates, lookahead in SETTINGS:
        programs = [(question(one), search(one, candidates, lookahead, 20.0)) for one in sets]
        runs[f"k={candidates} l={lookahead}"] = decode(engine, programs, max_tokens)
        print(f"k={candidates} l={lookahead} done", flush=True)
    unweighted = decode(engine, [(question(one), search(one, 4, 4, 0.0)) for one in sets], max_tokens)
    plain.append(decode(engine, [(question(one), greedy) for one in sets], max_tokens))
    expected = [answer.continuation.tokens for answer in plain[0].answers]
    equal = {
        "one candidate": [one.continuation.tokens for one in runs["k=1 l=0"].answers] == expected,
        "no weight": [one.continuation.tokens for one in unweighted.answers] == expected,
    }
    processor = sum(run.processor / run.tokens for run in plain) / 2
    wall = sum(run.wall / run.tokens for run in plain) / 2
    return {
        "prompts": prompts,
        "max_tokens": max_tokens,
        "equal_to_greedy": equal,
        "greedy_ms_a_token": round(1000 * processor, 1),
        "greedy_wall_ms_a_token": round(1000 * wall, 1),
        "times_greedy": {
            name: round(run.processor / run.tokens / processor, 2) for name, run in runs.items()
        },
        "times_greedy_wall": {name: round(run.wall / run.tokens / wall, 2) for name, run in runs.items()},
        "forwarded_a_token": {name: round(run.forwarded / run.tokens, 1) for name, run in runs.items()},
        "over_minimum": {name: round(run.forwarded / run.minimum, 4) for name, run in runs.items()},
        "tokens_over_minimum": round(max(run.forwarded / run.minimum for run in runs.values()), 4),
    }


def gain(engine: Any, sets: int, max_tokens: int) -> dict[str, Any]:
    """Share of the concepts covered, greedy and by lookahead, with paired sign tests."""
    chosen = concept_sets(sets)
    covered: dict[str, list[float]] = {}
    kinds: dict[str, Any] = {"greedy": lambda one: greedy}
    kinds |= {f"l={ahead}": lambda one, ahead=ahead: search(one, 8, ahead, 20.0) for ahead in AHEAD}
    for name, make in kinds.items():
        run = decode(engine, [(question(one), make(one)) for one in chosen], max_tokens)
        covered[name] = [
            sum(coverage(answer.text, one)) / len(one) for one, answer in zip(chosen, run.answers)
        ]
        print(f"coverage {name}: {sum(covered[name]) / sets:.3f}", flush=True)
    tests = {}
    for name in list(kinds)[1:]:
        pairs = list(zip(covered[name], covered["greedy"], strict=True))
        better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
        tests[name] = {"better": better, "worse": worse, "p": round(p, 5)}
    return {
        "sets": sets,
        "coverage": {name: round(sum(values) / sets, 3) for name, values in covered.items()},
        "all_covered": {
            name: round(sum(value == 1 for value in values) / sets, 3) for name, values in covered.items()
        },
        "against_greedy": tests,
    }


def run(prompts: int = PROMPTS, max_tokens: int = MAX_TOKENS, sets: int = SETS) -> dict[str, Any]:
    """The figures; ``sets`` concept sets are used for the coverage, which takes longest."""
    from trivet.models import embedded
    from trivet.models.names import resolve_model
    from trivet.models.torch_engine import TorchEngine

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine = TorchEngine(resolve_model(embedded.NAME))
    try:
        figures = {"clock": "processor time, one thread", **cost(engine, prompts, max_tokens)}
        return figures | (gain(engine, sets, 24) if sets else {})
    finally:
        engine.close()
        torch.set_num_threads(threads)


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks decode_deal", description=__doc__)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument(
        "--sets", type=int, default=SETS, help="concept sets of the coverage; 0 leaves it out"
    )
    options = parser.parse_args(arguments)
    report("decode_deal", run(options.prompts, options.max_tokens, options.sets), LIMITS)
