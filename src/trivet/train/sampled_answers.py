"""Answers of a model to many prompts, through the generation engine and kept on disk as they come.

A few prompts with all their answers are one request, whose sequences join the batch together. What is in a
batch then depends on nothing but the prompts and the seed, so on a CPU the same call gives the same answers,
bit by bit, also after an interruption.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from trivet._files import sha256_text
from trivet.errors import StoreError
from trivet.models.engine import Request
from trivet.models.names import ModelReference
from trivet.models.operations import (
    Commit,
    Continuation,
    Extend,
    Program,
    ProgramContext,
    Sampling,
    Several,
    Tokens,
)
from trivet.models.torch_engine import TorchEngine
from trivet.train.kept_lines import append_lines, read_lines

ROWS = 64
"""Sequences in the batch at most."""

DRAWN = Sampling(temperature=1.0)
"""Plain sampling: the model's own distribution."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it was drawn. ``ended``: it stopped by itself; ``tokens`` then ends with an
    end-of-sequence token, or with the token that completed a stop string, before which ``text`` is cut.
    ``logprob`` is its log-probability under the model that drew it, in nats, summed over ``tokens``."""

    tokens: Tokens
    text: str
    logprob: float
    ended: bool


@dataclass(frozen=True)
class Wanted:
    """So many answers to each prompt, drawn in this way. One of ``stop`` in its text ends an answer."""

    count: int
    sampling: Sampling
    stop: tuple[str, ...] = ()


@contextmanager
def generation_engine(reference: ModelReference, device: str = "auto") -> Iterator[TorchEngine]:
    """An engine of our own, whose weights may be replaced."""
    engine = TorchEngine(reference, device=device, max_rows=ROWS, replaceable=True)
    try:
        yield engine
    finally:
        engine.close()


def answer_all(
    engine: TorchEngine,
    prompts: Sequence[Tokens],
    wanted: Sequence[Wanted],
    *,
    max_tokens: int,
    seed: int,
    path: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Answer]]:
    """For each prompt its answers, in the order of ``wanted``.

    Args:
        prompts: token ids, each with room for an answer in the model's context.
        max_tokens: longest answer, in tokens.
        seed: of the drawing.
        path: a file that keeps the answers as they come; what is there already is read and not drawn again.
        progress: told how many prompts of how many are done.

    Raises:
        StoreError: the file cannot be written, or holds something else.
        EngineError: the model cannot be run.
    """
    together = max(1, ROWS // sum(one.count for one in wanted))
    found = [] if path is None else _kept(path, len(prompts))
    if len(found) == len(prompts):
        return found
    for start in range(len(found) // together * together, len(prompts), together):
        chunk = prompts[start : start + together]
        operations = [
            Extend(prompt, max_tokens, n=one.count, sampling=one.sampling, stop=one.stop)
            for prompt in chunk
            for one in wanted
        ]
        drawn = [_answer(one) for each in _run(engine, operations, _seed(seed, start)) for one in each]
        share = len(drawn) // len(chunk)
        new = [drawn[first : first + share] for first in range(0, len(drawn), share)]
        new = new[len(found) - start :]
        if path is not None:
            append_lines(path, [[astuple(one) for one in some] for some in new])
        found += new
        progress(len(found), len(prompts))
    return found


def _run(engine: TorchEngine, operations: Sequence[Extend], seed: int) -> list[list[Continuation]]:
    results: list[list[Continuation]] = []

    def program(context: ProgramContext) -> Program:
        results.extend((yield Several(tuple(operations))))
        yield Commit(Continuation((), "", (), "stop"))

    engine.forget()
    # What is answered are the prefixes of the operations, not the text of the request.
    engine.submit(Request([], program, seed, 1, text="-")).result()
    return results


def _answer(drawn: Continuation) -> Answer:
    end = () if drawn.end_token is None else (drawn.end_token,)
    ended = bool(end) or drawn.stop_reason == "stop_string"
    return Answer((*drawn.tokens, *end), drawn.text, float(sum(drawn.logprobs)), ended)


def _seed(seed: int, start: int) -> int:
    return int(sha256_text(f"{seed} {start}")[:15], 16)


def _kept(path: Path, count: int) -> list[list[Answer]]:
    """The answers that a run before wrote."""
    found = [[Answer(tuple(tokens), *rest) for tokens, *rest in line] for line in read_lines(path)]
    if len(found) > count:
        raise StoreError(
            f"holds answers to {len(found)} prompts, not {count}", where=str(path), hint="remove it"
        )
    return found
