"""The part of a chat that is judged: the last request and the answer to it, as text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trivet.models.operations import Chat


class Exchange(NamedTuple):
    """The last user message (``""`` where there is none) and the last assistant message."""

    prompt: str
    answer: str


class NotJudgeableError(ValueError):
    """The chat holds no answer that can be judged; the message says why."""


def exchange(chat: Chat) -> Exchange:
    """The last request and the answer to it.

    Content in parts (``[{"type": "text", "text": …}, …]``) is joined; parts that are not text are skipped.

    Raises:
        NotJudgeableError: the chat does not end with an assistant message that holds text.
    """
    if not isinstance(chat, Sequence) or not chat or not all(isinstance(m, Mapping) for m in chat):
        raise NotJudgeableError("not a chat: a list of messages is needed")
    if chat[-1].get("role") != "assistant":
        raise NotJudgeableError("the chat does not end with an answer of the assistant")
    answer = message_text(chat[-1])
    if answer is None:
        raise NotJudgeableError("the answer holds no text")
    prompts = [message_text(m) or "" for m in chat[:-1] if m.get("role") == "user"]
    return Exchange(prompts[-1] if prompts else "", answer)


def message_text(message: Mapping[str, Any]) -> str | None:
    """The text of a message, ``None`` where it holds none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [p.get("text") for p in content if isinstance(p, Mapping) and p.get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        return "\n".join(texts) if texts else None
    return None


_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'})
_SPACE = re.compile(r"\s+")


def folded(text: str) -> str:
    """``text`` in lower case with straight quotation marks and single spaces, in which phrases are sought."""
    return _SPACE.sub(" ", text.translate(_APOSTROPHES)).strip().lower()
