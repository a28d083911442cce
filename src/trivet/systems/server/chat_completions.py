"""``/v1/chat/completions``: a chat is answered by a system."""

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from trivet.models.reasoning import Part
from trivet.systems.answer import Answer
from trivet.systems.server.messages import NamedTool, to_chat
from trivet.systems.server.reply import FINISH_REASONS, Reply, logprob
from trivet.systems.server.requests import ChatRequest
from trivet.systems.server.visible_text import VisibleText
from trivet.systems.system import System
from trivet.systems.tool_calls import ToolCall
from trivet.systems.waiting import Pending

_FIELDS: dict[Part, str] = {"text": "content", "reasoning": "reasoning_content"}


class ChatReply(Reply):
    """Answers to a chat. Reasoning is ``reasoning_content``, apart from the content, as in peers' servers."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    request: ChatRequest

    def __init__(self, system: System, request: ChatRequest) -> None:
        super().__init__(system, request)
        self._chat = to_chat(request.messages)
        self._tools = [tool.as_schema() for tool in request.tools]
        self._visible: dict[int, VisibleText] = {}

    @property
    def count(self) -> int:
        """As many as ``n`` says."""
        return self.request.n

    def submit(self, index: int, on_text: Callable[[str], None] | None) -> Pending[Answer]:
        """Submit the answer of this number."""
        request, choice = self.request, self.request.tool_choice
        return self.system.submit(
            self._chat,
            seed=self.seed(index),
            max_tokens=self.max_tokens(request.limit),
            sampling=request.sampling,
            stop=request.stop,
            top_logprobs=request.top_logprobs,
            tools=self._tools,
            tool_choice=choice.model_dump() if isinstance(choice, NamedTool) else choice,
            continue_final_message=request.continue_final_message,
            on_text=on_text,
        )

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """An answer as a choice of the whole response."""
        calls = self._calls(answer)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text or (None if calls else ""),
            "refusal": None,
        }
        if answer.reasoning is not None:
            message["reasoning_content"] = answer.reasoning
        if calls:
            message["tool_calls"] = calls
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer),
            "finish_reason": _finish_reason(answer, calls),
            **self.extension(answer),
        }

    def first_choice(self, index: int) -> dict[str, Any]:
        """The role comes first."""
        return _delta(index, {"role": "assistant", "content": ""})

    def pieces(self, index: int, text: str, *, opened: bool) -> list[dict[str, Any]]:
        """Content and reasoning."""
        return _deltas(index, self._visible_text(index, opened).feed(text))

    def last_pieces(self, index: int, answer: Answer, *, opened: bool) -> list[dict[str, Any]]:
        """What was held back, tool calls, log-probabilities of all tokens, the reason."""
        choices = _deltas(index, self._visible_text(index, opened).finish(answer))
        calls = self._calls(answer)
        if calls:
            numbered = [{"index": number, **call} for number, call in enumerate(calls)]
            choices.append(_delta(index, {"tool_calls": numbered}))
        last = _delta(index, {}, _finish_reason(answer, calls))
        return [*choices, {**last, "logprobs": self._logprobs(answer), **self.extension(answer)}]

    def _visible_text(self, index: int, opened: bool) -> VisibleText:
        if index not in self._visible:
            tools = bool(self._tools) and self.request.tool_choice != "none"
            self._visible[index] = VisibleText(self.system.markers, opened=opened, tools=tools)
        return self._visible[index]

    def _calls(self, answer: Answer) -> list[dict[str, Any]]:
        calls = answer.tool_calls if self.request.parallel_tool_calls else answer.tool_calls[:1]
        return [_tool_call(call) for call in calls]

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        decode = answer.decode
        if not self.request.logprobs or decode is None:
            return None
        continuation = answer.continuation
        tops = continuation.top_logprobs or ((),) * len(continuation.tokens)
        content = [
            {
                **_token(decode, token, value),
                "top_logprobs": [_token(decode, other, log) for other, log in row],
            }
            for token, value, row in zip(continuation.tokens, continuation.logprobs, tops)
        ]
        return {"content": content, "refusal": None}


def _delta(index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _deltas(index: int, parts: list[tuple[Part, str]]) -> list[dict[str, Any]]:
    return [_delta(index, {_FIELDS[part]: text}) for part, text in parts]


def _finish_reason(answer: Answer, calls: list[dict[str, Any]]) -> str:
    reason = FINISH_REASONS[answer.stop_reason]
    return "tool_calls" if calls and reason == "stop" else reason


def _tool_call(call: ToolCall) -> dict[str, Any]:
    """In OpenAI's form. A call that could not be read keeps its raw text as arguments, for the client to
    see."""
    arguments = call.raw if call.parse_error else json.dumps(call.arguments)
    return {
        "id": f"call_{secrets.token_hex(8)}",
        "type": "function",
        "function": {"name": _whole_characters(call.name), "arguments": _whole_characters(arguments)},
    }


def _whole_characters(text: str) -> str:
    """``text`` without lone surrogates, which a model's JSON may name and no response can hold."""
    return text.encode("utf-8", "replace").decode()


def _token(decode: Callable[[Sequence[int]], str], token: int, value: float) -> dict[str, Any]:
    """``bytes`` is ``None`` for a token that holds a part of a character."""
    text = decode((token,))
    whole = "\ufffd" not in text
    return {"token": text, "logprob": logprob(value), "bytes": list(text.encode()) if whole else None}
