"""Bodies of requests: what is not supported is refused by name."""

import json
from typing import Any

import pytest

from trivet.systems.server.errors import RequestError
from trivet.systems.server.messages import to_chat
from trivet.systems.server.requests import ChatRequest, CompletionRequest, read

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "add"}}
STRICT = {"type": "function", "function": {"name": "add", "strict": True}}


def chat(**fields: Any) -> ChatRequest:
    return read(ChatRequest, json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def refusal(body: bytes, kind: Any = ChatRequest) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(kind, body)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_k": -2}, "top_k", "greater than or equal to -1"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 129}, "n", "less than or equal to 128"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, None, "give one of them"),
        ({"stop": [""]}, "stop[0]", "at least 1 character"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"logit_bias": {"cat": 1}}, "logit_bias", "token ids"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100"),
        ({"top_logprobs": 2}, None, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"stream_options": {"include_usage": True}}, None, "set stream to true"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "'text'"),
        ({"tool_choice": "required"}, None, "needs tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'function'"),
        ({"tools": [STRICT]}, "tools[0].function.strict", "False"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "ad"}}}, None, "'add'"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "'tool'"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "content is missing"),
        ({"messages": [{"role": "tool", "content": "3"}]}, "messages[0]", "tool_call_id"),
        ({"messages": [{**USER, "content": [{"type": "file"}]}]}, "messages[0].content[0].type", "'text'"),
        ({"messages": [{**USER, "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", "image_url"),
        ({"continue_final_message": True}, None, "must be the assistant's"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"functions": []}, "functions", "use tools"),
        ({"best_of": 3}, "best_of", "best_of_n"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "max_tokens bounds"),
        ({"trivet": {"trace": True, "tree": 1}}, "trivet.tree", "not supported"),
        ({"model": 3}, "model", "valid string"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str | None, says: str) -> None:
    error = refusal(json.dumps({"model": "m", "messages": [USER], **fields}).encode())
    assert error.param == param
    assert says in error.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe{}",
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_what_is_not_json(body: bytes) -> None:
    assert refusal(body).code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b'"text"'])
def test_what_is_no_object(body: bytes) -> None:
    assert refusal(body).code == "invalid_value"


def test_infinity_is_no_number() -> None:
    for value in (b"Infinity", b"NaN", b"1e999"):
        refusal(
            b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": ' + value + b"}"
        )


def test_missing_fields() -> None:
    assert refusal(b'{"model": "m"}').code == "missing_required_parameter"
    assert refusal(b'{"messages": [{"role": "user", "content": "x"}]}').param == "model"
    assert refusal(b'{"model": "m"}', CompletionRequest).param == "prompt"


def test_null_means_not_given() -> None:
    request = chat(temperature=None, stop=None, tools=None, functions=None, n=None, logit_bias=None)
    assert request.sampling == {} and request.stop == [] and request.n == 1


def test_settings_of_a_request() -> None:
    request = chat(
        temperature=1,
        top_k=-1,
        min_p=0.1,
        logit_bias={"5": -3},
        stop="END",
        max_completion_tokens=7,
        user="u",
    )
    assert request.sampling == {"temperature": 1.0, "top_k": 0, "min_p": 0.1, "logit_bias": {5: -3.0}}
    assert request.stop == ["END"] and request.limit == 7 and not request.include_usage


def test_an_earlier_call_comes_back_as_a_chat() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages: list[Any] = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    made = to_chat(chat(messages=messages).messages)
    assert made[1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert made[2] == {"role": "tool", "content": "2", "tool_call_id": "c1"}
    call["function"]["arguments"] = "{"  # type: ignore[index]
    error = refusal(json.dumps({"model": "m", "messages": messages}).encode())
    assert "JSON text of an object" in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt[0]"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt[0]"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "suffix": "x"}, "suffix"),
    ],
)
def test_completions(fields: dict[str, Any], param: str) -> None:
    assert refusal(json.dumps({"model": "m", **fields}).encode(), CompletionRequest).param == param
