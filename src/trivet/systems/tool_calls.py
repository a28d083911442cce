"""Tool calls in a model's text: the formats in which open models write them.

=================================== ==============================================
``<tool_call>{…}</tool_call>``      Hermes, Qwen, SmolLM2 (there also a list of calls)
``[TOOL_CALLS][{…}, …]``            Mistral
``{"name": …, "parameters": {…}}``  Llama 3, as the whole answer, several joined by ``;``
=================================== ==============================================

A call that cannot be read is reported as such and never dropped: the caller can tell the model.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trivet.models.operations import Chat

_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_MISTRAL = "[TOOL_CALLS]"
_LLAMA_TAG = "<|python_tag|>"


@dataclass(frozen=True)
class ToolCall:
    """One call that the model asks for.

    ``arguments`` is empty where ``parse_error`` says why the call could not be read; ``raw`` is its text.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    raw: str
    parse_error: str | None = None


def parse_tool_calls(text: str, names: Sequence[str]) -> tuple[str, tuple[ToolCall, ...]]:
    """The calls in an answer, and the answer without them.

    Args:
        text: what the model wrote, without its reasoning.
        names: of the tools that were offered. Bare JSON counts as a call only where it names one of them.
    """
    if "<tool_call>" in text:
        bodies = [match.group(1) for match in _BLOCK.finditer(text)]
        return _BLOCK.sub("", text).strip(), _numbered(call for body in bodies for call in _read(body))
    if _MISTRAL in text:
        before, _, body = text.partition(_MISTRAL)
        return before.strip(), _numbered(_read(body))
    body = text.strip().removeprefix(_LLAMA_TAG).strip()
    if body.startswith(("{", "[")):
        calls = list(_bare(body))
        if calls and all(call.parse_error is None and call.name in names for call in calls):
            return "", _numbered(calls)
    return text, ()


def arguments_for(engine: str | None, chat: Chat) -> Chat:
    """The chat with the arguments of earlier tool calls as this kind of engine takes them.

    Chat templates that PyTorch models bring want an object, servers with OpenAI's API want its JSON text.
    """
    return [
        {**message, "tool_calls": [_with_arguments(call, engine) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in chat
    ]


def _with_arguments(call: dict[str, Any], engine: str | None) -> dict[str, Any]:
    arguments = call["function"].get("arguments") or {}
    if engine == "torch" and isinstance(arguments, str):
        arguments = json.loads(arguments)
    elif engine != "torch" and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": arguments}}


def native_call(call: Mapping[str, Any]) -> ToolCall:
    """A call in OpenAI's form, as endpoints give it that parse the text themselves."""
    function = call.get("function") or {}
    arguments = function.get("arguments") or {}
    parsed = _call({"name": function.get("name"), "arguments": arguments}, str(arguments))
    return ToolCall(
        str(call.get("id") or "call_0"), parsed.name, parsed.arguments, parsed.raw, parsed.parse_error
    )


def _numbered(calls: Iterator[ToolCall] | Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(f"call_{number}", call.name, call.arguments, call.raw, call.parse_error)
        for number, call in enumerate(calls)
    )


def _read(body: str) -> Iterator[ToolCall]:
    """Calls of one marked block: an object, a list of objects, or an error."""
    body = body.strip()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        yield _unreadable(body, f"not valid JSON: {error}")
        return
    for entry in value if isinstance(value, list) else [value]:
        yield _call(entry, body)


def _bare(body: str) -> Iterator[ToolCall]:
    """Calls of an answer that is JSON and nothing else, several joined by ``;``."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(body):
        try:
            value, position = decoder.raw_decode(body, position)
        except (ValueError, RecursionError) as error:
            yield _unreadable(body, str(error))
            return
        for entry in value if isinstance(value, list) else [value]:
            yield _call(entry, body)
        rest = body[position:].lstrip("; \n\t")
        position = len(body) - len(rest)


def _call(entry: Any, raw: str) -> ToolCall:
    if isinstance(entry, dict) and isinstance(entry.get("function"), dict):
        entry = entry["function"]  # OpenAI's own shape, which some models imitate
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        return _unreadable(raw, "a tool call is an object with the keys name and arguments")
    arguments = entry.get("arguments", entry.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            return _unreadable(raw, f"the arguments are not valid JSON: {error}", entry["name"])
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return _unreadable(raw, "the arguments of a tool call are an object", entry["name"])
    return ToolCall("", entry["name"], arguments, raw)


def _unreadable(raw: str, reason: str, name: str | None = None) -> ToolCall:
    if name is None:
        found = re.search(r'"name"\s*:\s*"([^"\\]{1,64})"', raw)
        name = found.group(1) if found else "unknown"
    return ToolCall("", name, {}, raw, f"the tool call could not be read: {reason}")
