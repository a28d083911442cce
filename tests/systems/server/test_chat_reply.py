"""An answer in the form of a chat completion: calls, reasons, and log-probabilities that JSON can hold."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from trivet.models.engine import Usage
from trivet.models.operations import Continuation
from trivet.systems import Answer, System, ToolCall
from trivet.systems.server.chat_completions import ChatReply
from trivet.systems.server.requests import ChatRequest, read

TOOL = {"type": "function", "function": {"name": "add"}}
GOOD = ToolCall("call_0", "add", {"a": 1}, "{…}")
BAD = ToolCall("call_1", "add", {}, '{"name": "add", ', "not valid JSON")


@pytest.fixture(scope="module")
def system(tiny_model_folder: Path) -> System:
    return System.load({"model": str(tiny_model_folder)}).open()


def answer(text: str, stop_reason: Any = "stop", calls: tuple[ToolCall, ...] = (), **more: Any) -> Answer:
    continuation = more.pop("continuation", Continuation((), text, (), stop_reason))
    return Answer(text, "s@0", stop_reason, Usage(4, 2), 0.1, continuation, tool_calls=calls, **more)


def reply(system: System, **fields: Any) -> ChatReply:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return ChatReply(system, read(ChatRequest, json.dumps(body).encode()))


def test_calls_are_in_openais_form_and_an_unreadable_one_shows_its_text(system: System) -> None:
    made = reply(system, tools=[TOOL]).choice(0, answer("", calls=(GOOD, BAD)))
    assert made["finish_reason"] == "tool_calls" and made["message"]["content"] is None
    good, bad = made["message"]["tool_calls"]
    assert json.loads(good["function"]["arguments"]) == {"a": 1}
    assert bad["function"]["arguments"] == BAD.raw
    assert good["id"] != bad["id"]


def test_one_call_where_parallel_ones_are_not_wanted(system: System) -> None:
    made = reply(system, tools=[TOOL], parallel_tool_calls=False).choice(0, answer("", calls=(GOOD, BAD)))
    assert len(made["message"]["tool_calls"]) == 1


def test_a_stream_holds_a_call_back_until_it_is_whole(system: System) -> None:
    streaming = reply(system, tools=[TOOL], stream=True)
    shown = streaming.pieces(0, "I add. <tool", opened=False)
    shown += streaming.pieces(0, '_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', opened=False)
    shown += streaming.last_pieces(0, answer("I add.", calls=(GOOD,)), opened=False)
    assert "".join(choice["delta"].get("content", "") for choice in shown) == "I add."
    calls = [call for choice in shown for call in choice["delta"].get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0]
    assert shown[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [("stop", "stop"), ("stop_string", "stop"), ("length", "length"), ("context", "length"),
     ("blocked", "content_filter")],
)  # fmt: skip
def test_reasons(system: System, stop_reason: Any, finish_reason: str) -> None:
    assert reply(system).choice(0, answer("a", stop_reason))["finish_reason"] == finish_reason


def test_an_impossible_alternative_has_a_log_probability_that_json_can_hold(system: System) -> None:
    continuation = Continuation((5,), "a", (-0.5, -1.0), "stop", (((5, -0.5), (6, -math.inf)),))
    one = answer("a", continuation=continuation, decode=lambda tokens: "é" if 5 in tokens else "\ufffd")
    content = reply(system, logprobs=True, top_logprobs=2).choice(0, one)["logprobs"]["content"]
    assert len(content) == 1, "the end-of-sequence token is none of the text's"
    assert content[0]["bytes"] == [0xC3, 0xA9]
    assert content[0]["top_logprobs"][1] == {"token": "\ufffd", "logprob": -9999.0, "bytes": None}


def test_usage_counts_a_prompt_once_and_all_completions(system: System) -> None:
    usage = reply(system, n=3).usage([answer("a", reasoning_tokens=1)] * 3)
    assert usage["prompt_tokens"] == 4 and usage["completion_tokens"] == 6 and usage["total_tokens"] == 10
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}
