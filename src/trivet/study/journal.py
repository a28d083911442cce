"""Finished answers, kept one by one: what makes a study survive ``kill -9`` at any instant.

Every answer of a model is appended to a journal before Inspect sees it. When the same step runs again, an
answer that is in the journal is replayed and never generated a second time; this also holds when the study is
extended by more prompts. A journal works below Inspect, at the model's ``generate``, so it serves every
provider and solvers that call the model several times.

One line is one JSON object ``{"key", "output", "check"}``; ``check`` is a digest of the other two, so a line
that a kill cut short, or that was changed, is not taken for an answer. A line is on the disk (fsync) before
its answer is used.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet._files import canonical_json, sha256_text
from trivet.errors import StoreError
from trivet.study.store import disk_error

if TYPE_CHECKING:
    from inspect_ai.model import Model, ModelOutput

# What steers the transport and not the answer.
_NOT_IN_KEY = {
    "max_connections", "max_retries", "timeout", "attempt_timeout", "cache", "batch", "adaptive_connections",
}  # fmt: skip


class Journal:
    """The answers of one step on disk. Opening it drops a line that was cut short.

    Args:
        path: the ``.jsonl`` file; made with the first answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._outputs: dict[str, dict[str, Any]] = {}
        self._stream: Any = None
        self._whole = self._load()

    def _load(self) -> int:
        """Read the whole lines; returns the number of bytes up to the end of the last whole line."""
        if not self.path.exists():
            return 0
        whole = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # cut short; the next answer is written in its place
            whole += len(line)
            entry = parse_line(line)
            if entry is not None:
                self._outputs[entry["key"]] = entry["output"]
        return whole

    def __len__(self) -> int:
        return len(self._outputs)

    def get(self, key: str) -> dict[str, Any] | None:
        """The output stored under ``key`` as plain JSON."""
        return self._outputs.get(key)

    def outputs(self) -> list[dict[str, Any]]:
        """All outputs as plain JSON."""
        return list(self._outputs.values())

    def put(self, key: str, output: dict[str, Any]) -> None:
        """Append one answer and flush it to disk.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        line = make_line(key, output)
        try:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self.path.open("ab", buffering=0)
                self._stream.truncate(self._whole)
            written = self._stream.write(line)
            if written != len(line):  # a full disk may take a part; an unbuffered write does not raise then
                self._stream.truncate(self._whole)
                raise OSError(28, "no space left on device", str(self.path))
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._whole += len(line)
        self._outputs[key] = output

    def close(self) -> None:
        """Close the file; the answers stay."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def make_line(key: str, output: dict[str, Any]) -> bytes:
    """One line of a journal."""
    body = {"key": key, "output": output}
    return (json.dumps({**body, "check": sha256_text(canonical_json(body))[:16]}) + "\n").encode()


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The entry of a line, or ``None`` where it is cut short or was changed."""
    try:
        entry = json.loads(line)
        body = {"key": entry["key"], "output": entry["output"]}
        return body if sha256_text(canonical_json(body))[:16] == entry["check"] else None
    except (ValueError, KeyError, TypeError):
        return None


def attach(
    model: "Model",
    journal: Journal,
    on_answer: "Callable[[ModelOutput, bool], None]",
    guard: Callable[[], None],
    on_broken: Callable[[StoreError], None],
) -> "Model":
    """Make ``model`` write its answers to ``journal`` and replay those that are there.

    Args:
        on_answer: called with each answer and whether it was replayed.
        guard: called before an answer is generated; raises where no more may be spent.
        on_broken: called where an answer could not be written, before the error is raised.
    """
    from inspect_ai.log._samples import sample_active
    from inspect_ai.model import ModelOutput

    generate = model.api.generate
    seen: Counter[str] = Counter()
    # Our provider seeds a sample's requests by their number; replayed ones count.
    count_call = getattr(model.api, "count_call", lambda: 0)

    async def journalled(input: Any, tools: Any, tool_choice: Any, config: Any, **more: Any) -> Any:
        sample = sample_active()
        if sample is None:  # a scorer or a script asks, not a sample that is being answered
            return await generate(input, tools, tool_choice, config, **more)
        question = _digest(input, tools, tool_choice, config)
        asked = f"{sample.sample.id}|{sample.epoch}|{question}"
        number = seen[asked]
        seen[asked] += 1
        key = f"{asked}|{number}"
        stored = journal.get(key)
        if stored is not None:
            output = ModelOutput.model_validate(stored)
            count_call()
            on_answer(output, True)
            return output
        guard()
        result = await generate(input, tools, tool_choice, config, **more)
        answer = result[0] if isinstance(result, tuple) else result
        if isinstance(answer, ModelOutput):
            try:
                journal.put(key, answer.model_dump(mode="json", exclude_none=True))
            except StoreError as error:
                on_broken(error)
                raise
            on_answer(answer, False)
        return result

    model.api.generate = journalled  # type: ignore[method-assign]
    return model


def _digest(input: Any, tools: Any, tool_choice: Any, config: Any) -> str:
    messages = [_without_ids(message.model_dump(mode="json", exclude_none=True)) for message in input]
    return sha256_text(
        canonical_json(
            {
                "messages": messages,
                "tools": [tool.model_dump(mode="json", exclude_none=True) for tool in tools],
                "tool_choice": str(tool_choice),
                "config": config.model_dump(mode="json", exclude_none=True, exclude=_NOT_IN_KEY),
            }
        )
    )[:24]


def _without_ids(value: Any) -> Any:
    """Messages get random ids in each run; they are no part of the question."""
    if isinstance(value, dict):
        return {key: _without_ids(inner) for key, inner in value.items() if key not in {"id", "tool_call_id"}}
    if isinstance(value, list):
        return [_without_ids(inner) for inner in value]
    return value
