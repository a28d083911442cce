"""The mean hidden state of an answer: what heads are fitted on and score with.

The chat is rendered with the model's own chat template and run through the engine, which computes a shared
prompt once. System messages are left out: a judge scores the answer to the request, whatever the judged
system was told. Only the first ``max_tokens`` tokens of the answer are read.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save

from trivet._files import atomic_writer, canonical_json, sha256_text
from trivet.errors import EngineError, JudgeError
from trivet.judges.exchange import NotJudgeableError, exchange, message_text
from trivet.judges.submission import submit
from trivet.models.engine import Engine, Handle, Request
from trivet.models.operations import Chat, Hidden, Program, ProgramContext

State: TypeAlias = "NDArray[np.float32] | str"
"""The mean hidden state [width], or why there is none."""

_IN_FLIGHT = 64


def answer_states(
    engine: Engine,
    chats: Sequence[Chat],
    *,
    layer: int,
    max_tokens: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[State]:
    """The mean, over the tokens of the last answer, of the hidden state after block ``layer``.

    Args:
        engine: runs the operation ``Hidden``.
        layer: as in ``Hidden``: 0 is the embedding's output.
        max_tokens: tokens of the answer that are read, from its start.
        progress: called with the number of chats done.

    Returns:
        For each chat float32 [width], or a sentence that says why there is none.
    """
    results: list[State] = [""] * len(chats)
    waiting = iter(range(len(chats)))
    done = 0
    while batch := list(islice(waiting, _IN_FLIGHT)):
        running: list[tuple[int, Handle, list[NDArray[np.float32]]]] = []
        for index in batch:
            try:
                turns = _turns(chats[index])
                found: list[NDArray[np.float32]] = []
                running.append((index, _submit(engine, turns, layer, max_tokens, found), found))
            except (NotJudgeableError, EngineError) as error:
                results[index] = str(error)
        for index, handle, found in running:
            try:
                handle.result()
                results[index] = found[0] if found else "the answer has no tokens"
            except (EngineError, CancelledError) as error:
                results[index] = f"the judge's model could not read it: {error}"
        done += len(batch)
        progress(done)
    return results


def _turns(chat: Chat) -> Chat:
    if not exchange(chat).answer.strip():
        raise NotJudgeableError("the answer is empty")
    return [
        {"role": message["role"], "content": message_text(message) or ""}
        for message in chat
        if message.get("role") in ("user", "assistant")
    ]


def _submit(
    engine: Engine, chat: Chat, layer: int, max_tokens: int, found: list[NDArray[np.float32]]
) -> Handle:
    def program(context: ProgramContext) -> Program:
        start = len(context.render(chat[:-1]))
        tokens = context.prompt[: start + max_tokens]
        if len(tokens) > start:
            positions = tuple(range(start, len(tokens)))
            states: dict[int, Any] = yield Hidden(tokens, (layer,), positions)
            found.append(np.asarray(states[layer], dtype=np.float32).mean(axis=0))

    request = Request(chat=chat, program=program, seed=0, max_tokens=1, continue_final_message=True)
    return submit(engine, request)


class StateCache:
    """Hidden states on disk, by content: a refit on the same pairs does not run the model again.

    One safetensors file a block of chats under ``folder``, named by the digest of the engine's identity, the
    layer, ``max_tokens`` and the chats. A file that cannot be read is computed again.
    """

    def __init__(
        self, folder: Path, engine: Engine, *, layer: int, max_tokens: int, block: int = 256
    ) -> None:
        self.folder = Path(folder)
        self._engine, self._layer, self._max_tokens, self._block = engine, layer, max_tokens, block

    def states(
        self, chats: Sequence[Chat], progress: Callable[[int], None] = lambda done: None
    ) -> list[State]:
        """As ``answer_states``, from the cache where it is there."""
        results: list[State] = []
        for start in range(0, len(chats), self._block):
            part = chats[start : start + self._block]
            path = self.folder / f"{self._key(part)}.safetensors"
            states = _load(path, len(part))
            if states is None:
                states = answer_states(
                    self._engine,
                    part,
                    layer=self._layer,
                    max_tokens=self._max_tokens,
                    progress=lambda done, start=start: progress(start + done),  # type: ignore[misc]
                )
                _store(path, states)
            results += states
            progress(len(results))
        return results

    def _key(self, chats: Sequence[Chat]) -> str:
        about = [1, self._engine.identity, self._layer, self._max_tokens, list(chats)]
        return sha256_text(canonical_json(about))


def _store(path: Path, states: Sequence[State]) -> None:
    width = next((len(state) for state in states if not isinstance(state, str)), 0)
    table = np.zeros((len(states), width), dtype=np.float32)
    for row, state in enumerate(states):
        if not isinstance(state, str):
            table[row] = state
    reasons = canonical_json([state if isinstance(state, str) else None for state in states])
    with atomic_writer(path, "wb") as stream:
        stream.write(save({"states": table}, metadata={"reasons": reasons}))


def _load(path: Path, count: int) -> list[State] | None:
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as stream:
            table = stream.get_tensor("states")
            reasons = json.loads((stream.metadata() or {})["reasons"])
    except (safetensors.SafetensorError, OSError, KeyError, ValueError):
        return None
    if len(table) != count or len(reasons) != count:
        return None
    return [reason if isinstance(reason, str) else table[row] for row, reason in enumerate(reasons)]


def usable_pairs(states: Sequence[State]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(pair, difference) of the states ``[chosen₀, rejected₀, chosen₁, …]``, pairs without both left out.

    Raises:
        JudgeError: no pair has both states; the first reason is told.
    """
    usable = False
    reason = ""
    for pair in range(len(states) // 2):
        chosen, rejected = states[2 * pair], states[2 * pair + 1]
        if isinstance(chosen, str) or isinstance(rejected, str):
            reason = reason or (chosen if isinstance(chosen, str) else str(rejected))
            continue
        usable = True
        yield pair, chosen - rejected
    if not usable:
        raise JudgeError(f"no pair could be read by the model: {reason or 'there are none'}")
