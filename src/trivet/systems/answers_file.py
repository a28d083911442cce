"""Answers to a file of prompts, in a file of answers that any interruption leaves usable.

While it runs, each finished answer is appended as one line and flushed to disk; a kill loses unfinished
answers only. At the end the file is written anew in the order of the prompts and takes the old one's place.
The next run keeps every answer of the same system, settings and prompt; a last line that a kill cut short is
dropped. Accepted trade-off: two runs into one file at once are not prevented.
"""

import json
import os
import queue
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from trivet._files import atomic_writer, canonical_json, sha256_text
from trivet.data.reading import read_rows, text_field
from trivet.errors import DataError, QueueFullError, StoreError, TrivetError
from trivet.models.operations import Chat
from trivet.systems.answer import Answer
from trivet.systems.system import System
from trivet.systems.waiting import Pending

_ROLES = ("system", "user", "assistant", "tool")
_WRITTEN = ("answer", "reasoning", "system", "settings", "stop_reason", "usage", "seconds", "trace", "key")


@dataclass(frozen=True)
class Question:
    """A row of the prompts' file. ``key`` digests the chat and how often it came before."""

    where: str
    row: dict[str, Any]
    chat: Chat
    key: str


def read_questions(path: Path) -> list[Question]:
    """Read rows ``{"prompt": text}`` or ``{"messages": chat}``; other fields are kept in the answers.

    Raises:
        DataError: names the file and line, the rule and what was there.
    """
    questions, seen = [], Counter[str]()
    for where, row in read_rows(path):
        for name in _WRITTEN:
            if name in row:
                raise DataError(
                    f"the field {name!r} is one that the answers' file adds",
                    where=where,
                    hint="rename it; is this the file of answers?",
                )
        chat = _chat(row, where)
        digest = sha256_text(canonical_json(chat))
        questions.append(Question(where, row, chat, f"{digest[:24]}-{seen[digest]}"))
        seen[digest] += 1
    return questions


def _chat(row: dict[str, Any], where: str) -> Chat:
    if "prompt" in row and "messages" in row:
        raise DataError("give either 'prompt' or 'messages', not both", where=where)
    if "messages" not in row:
        return [{"role": "user", "content": text_field(row, "prompt", where)}]
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise DataError("'messages' must be a list of messages, at least one", where=where)
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise DataError(f"message {number}: 'role' must be one of {', '.join(_ROLES)}", where=where)
        if not isinstance(message.get("content"), str):
            raise DataError(f"message {number}: 'content' must be text", where=where)
    if messages[-1]["role"] == "assistant":
        raise DataError("the last message must not be the assistant's: it is to be answered", where=where)
    return messages


class AnswersFile:
    """The file of answers of one system under one set of settings.

    Args:
        path: a ``.jsonl`` file; it need not exist.
        system: ``name@hash12``.
        settings: what else determines the answers: seed, overrides.
        overwrite: answers of other systems or settings in the file are thrown away, instead of refused.

    Raises:
        DataError: the file holds something else, or answers of another system or other settings.
    """

    def __init__(self, path: Path, *, system: str, settings: dict[str, Any], overwrite: bool = False) -> None:
        self.path = Path(path)
        self._system, self._settings = system, settings
        self._rows: dict[str, dict[str, Any]] = {}
        self._stream: IO[bytes] | None = None
        if self.path.exists() and not overwrite:
            self._load()

    def __contains__(self, question: Question) -> bool:
        return question.key in self._rows

    def _load(self) -> None:
        if self.path.is_dir():
            raise DataError("is a folder, not a file", where=str(self.path))
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{self.path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError:
                if number == len(lines):  # cut short by a kill: no line break follows it
                    continue
                raise DataError("is not JSON, so this is no file of answers", where=where) from None
            self._keep(row, where)

    def _keep(self, row: Any, where: str) -> None:
        if not isinstance(row, dict) or "key" not in row or "system" not in row:
            raise DataError(
                "is not an answer of `trivet generate`", where=where, hint="choose another --output"
            )
        same_system = str(row["system"]).rsplit("@", 1)[-1] == self._system.rsplit("@", 1)[-1]
        if not same_system or row.get("settings") != self._settings:
            what = f"is an answer of {row['system']}" if not same_system else "was made with other settings"
            raise DataError(
                f"{what}; this run is {self._system} with {canonical_json(self._settings)}",
                where=where,
                hint="choose another --output, or give --overwrite to throw the old answers away",
            )
        self._rows[str(row["key"])] = row

    def add(self, question: Question, answer: Answer) -> None:
        """Append one answer and flush it to disk.

        Raises:
            StoreError: the disk is full or the file cannot be written.
        """
        row: dict[str, Any] = {
            **question.row,
            "answer": answer.text,
            "reasoning": answer.reasoning,
            "system": self._system,
            "settings": self._settings,
            "stop_reason": answer.stop_reason,
            "usage": {
                "prompt_tokens": answer.usage.prompt_tokens,
                "completion_tokens": answer.usage.completion_tokens,
                "reasoning_tokens": answer.reasoning_tokens,
                "forward_tokens": answer.usage.forward_tokens,
                "judge_calls": answer.usage.judge_calls,
            },
            "seconds": round(answer.seconds, 3),
            "trace": list(answer.trace),
            "key": question.key,
        }
        try:
            if self._stream is None:
                self._begin()
            assert self._stream is not None
            self._stream.write(_line(row))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise StoreError(
                f"cannot write: {error.strerror or error}",
                where=str(self.path),
                hint="free disk space and run the same command again; finished answers are kept",
            ) from error
        self._rows[question.key] = row

    def _begin(self) -> None:
        """Write what is kept and open for appending, so that appended lines begin on a new line."""
        with atomic_writer(self.path, "wb") as stream:
            stream.writelines(map(_line, self._rows.values()))
        self._stream = self.path.open("ab")

    def finish(self, questions: Sequence[Question]) -> None:
        """Write the answers in the order of the questions; answers to other prompts follow."""
        self.close()
        keys = [question.key for question in questions if question.key in self._rows]
        asked = set(keys)
        rest = [key for key in self._rows if key not in asked]
        with atomic_writer(self.path, "wb") as stream:
            stream.writelines(_line(self._rows[key]) for key in [*keys, *rest])

    def close(self) -> None:
        """Close the file; the answers stay."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
            self._stream = None


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def answer_all(
    system: System,
    questions: Sequence[Question],
    *,
    window: int,
    seed: int,
    options: dict[str, Any],
    on_answer: Callable[[Question, Answer], None],
    on_text: Callable[[str], None] | None = None,
) -> None:
    """Answer questions, up to ``window`` at once, in the order in which they finish.

    The seed of a question follows from ``seed`` and its key, so it does not depend on which others are asked.

    Raises:
        TrivetError: the first failure, with the question's place; what is under way is cancelled.
        KeyboardInterrupt: Ctrl-C; what is under way is cancelled.
    """
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    running: dict[str, tuple[Question, Pending[Answer]]] = {}
    waiting = list(reversed(questions))
    try:
        while waiting or running:
            while waiting and len(running) < window:
                question = waiting[-1]
                try:
                    pending = _ask(system, question, seed, options, on_text)
                except QueueFullError:
                    if not running:
                        raise
                    break
                waiting.pop()
                running[question.key] = (question, pending)
                pending.handle.add_done_callback(lambda _, key=question.key: done.put(key))  # type: ignore[misc]
            question, pending = running.pop(_next(done))
            on_answer(question, _placed(question, pending.answer))
    finally:
        for _, pending in running.values():
            pending.handle.cancel()


def _next(done: "queue.SimpleQueue[str]") -> str:
    """The key of the next finished request; short waits, so that Ctrl-C is seen."""
    while True:
        with suppress(queue.Empty):
            return done.get(timeout=0.2)


def _ask(
    system: System,
    question: Question,
    seed: int,
    options: dict[str, Any],
    on_text: Callable[[str], None] | None,
) -> Pending[Answer]:
    own = int(sha256_text(f"{seed}|{question.key}")[:13], 16)
    return _placed(question, lambda: system.submit(question.chat, seed=own, on_text=on_text, **options))


Result = TypeVar("Result")


def _placed(question: Question, call: Callable[[], Result]) -> Result:
    """Call; a failure names the row that it is about."""
    try:
        return call()
    except QueueFullError:
        raise
    except TrivetError as error:
        where = question.where if error.where is None else f"{question.where}: {error.where}"
        raise type(error)(error.message, where=where, hint=error.hint) from error
