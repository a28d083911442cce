"""Inspect's messages and tools as chats and JSON schemas, and answers as Inspect's output."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentImage,
    ContentReasoning,
    ContentText,
    Logprob,
    Logprobs,
    ModelUsage,
    StopReason,
    TopLogprob,
)
from inspect_ai.tool import ToolCall as InspectToolCall
from inspect_ai.tool import ToolChoice, ToolFunction, ToolInfo

from trivet.errors import UnsupportedError
from trivet.models.operations import Chat
from trivet.systems.answer import Answer
from trivet.systems.spec import ReasoningSpec

if TYPE_CHECKING:
    from trivet.systems.tool_calls import ToolCall

_STOP_REASONS: dict[str, StopReason] = {
    "stop": "stop",
    "stop_string": "stop",
    "length": "max_tokens",
    "context": "model_length",
    "blocked": "content_filter",
}


def to_chat(messages: Sequence[ChatMessage], reasoning: ReasoningSpec | None) -> Chat:
    """Inspect's messages as a chat; reasoning that Inspect kept in the history goes between its markers.

    Raises:
        UnsupportedError: a message holds audio, video, documents or the like.
    """
    chat: Chat = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": _content(message.content, reasoning)}
        if isinstance(message, ChatMessageAssistant) and message.tool_calls:
            entry["tool_calls"] = [_call(call) for call in message.tool_calls]
        if isinstance(message, ChatMessageTool):
            if message.error is not None:
                entry["content"] = f"Error: {message.error.message}"
            entry["name"] = message.function
            entry["tool_call_id"] = message.tool_call_id
        chat.append(entry)
    return chat


def _content(content: str | list[Content], reasoning: ReasoningSpec | None) -> Any:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for part in content:
        match part:
            case ContentText():
                parts.append({"type": "text", "text": part.text})
            case ContentReasoning():
                markers = reasoning or ReasoningSpec.model_validate({})
                thought = (part.summary or "") if part.redacted else part.reasoning
                parts.append({"type": "text", "text": f"{markers.start}{thought}{markers.end}"})
            case ContentImage():
                parts.append({"type": "image_url", "image_url": {"url": part.image}})
            case _:
                raise UnsupportedError(f"a message holds {part.type}, which trivet systems do not take")
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _call(call: InspectToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function, "arguments": call.arguments},
    }


def to_schemas(tools: Sequence[ToolInfo]) -> list[dict[str, Any]]:
    """JSON schemas of tools in OpenAI's form."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters.model_dump(mode="json", exclude_none=True),
            },
        }
        for tool in tools
    ]


def to_choice(choice: ToolChoice) -> str | dict[str, Any]:
    """Inspect's tool choice in OpenAI's form."""
    if isinstance(choice, ToolFunction):
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice == "any" else choice


def completion_choice(
    answer: Answer, *, logprobs: bool, one_tool_call: bool, call_prefix: str
) -> ChatCompletionChoice:
    """One answer as Inspect's choice; reasoning is a content part of its own, so no scorer reads it.

    Args:
        call_prefix: makes the ids of tool calls unique in a conversation.
    """
    content: str | list[Content] = answer.text
    if answer.reasoning is not None:
        content = [ContentReasoning(reasoning=answer.reasoning), ContentText(text=answer.text)]
    calls = answer.tool_calls[:1] if one_tool_call else answer.tool_calls
    reason = _STOP_REASONS[answer.stop_reason]
    return ChatCompletionChoice(
        message=ChatMessageAssistant(
            content=content,
            model=answer.system,
            source="generate",
            tool_calls=[_tool_call(call, call_prefix) for call in calls] or None,
        ),
        stop_reason="tool_calls" if calls and reason == "stop" else reason,
        logprobs=_logprobs(answer) if logprobs else None,
    )


def _tool_call(call: "ToolCall", prefix: str) -> InspectToolCall:
    return InspectToolCall(
        id=f"{prefix}_{call.id}",
        function=call.name,
        arguments=call.arguments,
        parse_error=f"{call.parse_error}\n{call.raw[:500]}" if call.parse_error else None,
    )


def _logprobs(answer: Answer) -> Logprobs:
    decode = answer.decode
    if decode is None:
        raise UnsupportedError(
            "logprobs: the engine shows no tokens", hint="use the PyTorch engine (engine: torch)"
        )
    continuation = answer.continuation
    tops = continuation.top_logprobs or ((),) * len(continuation.tokens)
    return Logprobs(
        content=[
            Logprob(
                token=decode((token,)),
                logprob=value,
                top_logprobs=[TopLogprob(token=decode((other,)), logprob=log) for other, log in row] or None,
            )
            for token, value, row in zip(continuation.tokens, continuation.logprobs, tops)
        ]
    )


def usage_of(answers: Sequence[Answer]) -> ModelUsage:
    """Tokens of one request's answers together; input found in the cache is counted apart, as Inspect does.

    ``reasoning_tokens`` is part of ``output_tokens``.
    """
    prompt = sum(answer.usage.prompt_tokens for answer in answers)
    output = sum(answer.usage.completion_tokens for answer in answers)
    cached = min(prompt, sum(answer.usage.cached_tokens for answer in answers))
    reasoning = [answer.reasoning_tokens for answer in answers]
    return ModelUsage(
        input_tokens=prompt - cached,
        input_tokens_cache_read=cached,
        output_tokens=output,
        total_tokens=prompt + output,
        reasoning_tokens=None if None in reasoning else sum(value or 0 for value in reasoning),
    )
