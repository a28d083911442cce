"""What a request may ask for: each field is honoured, or refused by name; nothing is ignored silently.

A field that is left out has the system's own value, not OpenAI's default. Fields that only keep books
(``user``, ``metadata``, …) are taken and have no effect.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from trivet._validation import did_you_mean
from trivet.systems.server.errors import RequestError
from trivet.systems.server.messages import Message, NamedTool, Strict, Tool

_ADVICE = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "best_of": "a system's own decoding method does it: decode: {method: best_of_n, …}",
    "echo": "the prompt is yours already; leave echo out",
    "suffix": "leave it out",
    "reasoning_effort": "max_tokens bounds reasoning and answer together",
    "prediction": "leave it out",
    "web_search_options": "leave it out",
    "audio": "only text is answered",
    "verbosity": "say it in the prompt",
}
_STOPS = 16


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed)]


class StreamOptions(Strict):
    """``include_usage``: a last chunk holds the usage."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Extension(Strict):
    """What is asked of Trivet beyond OpenAI's API. ``trace``: why each answer was chosen, and its costs."""

    trace: bool = False


class Generation(Strict):
    """What chat completions and completions have in common."""

    model: str
    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Texts = Field(default_factory=list, max_length=_STOPS)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    top_k: int | None = Field(None, ge=-1, description="0 and −1: off")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    trivet: Extension = Field(default_factory=lambda: Extension.model_validate({}))
    user: str | None = None

    @field_validator("logit_bias")
    @classmethod
    def _by_token(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for key in value or ():
            if not re.fullmatch(r"[0-9]{1,9}", key):
                raise ValueError(f"its keys are token ids, not {key!r:.40}")
        return value

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> "Generation":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true")
        return self

    @property
    def sampling(self) -> dict[str, Any]:
        """Fields of ``SamplingSpec`` that override the system's own."""
        names = (
            "temperature",
            "top_p",
            "presence_penalty",
            "frequency_penalty",
            "min_p",
            "repetition_penalty",
        )
        values: dict[str, Any] = {
            name: getattr(self, name) for name in names if getattr(self, name) is not None
        }
        if self.top_k is not None:
            values["top_k"] = max(0, self.top_k)
        if self.logit_bias is not None:
            values["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        return values

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ResponseFormat(Strict):
    """Only plain text: nothing forces the model into a format."""

    type: Literal["text"]


class ChatRequest(Generation):
    """The body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    tools: list[Tool] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    continue_final_message: bool = Field(False, description="the answer goes on from the assistant's message")
    metadata: dict[str, str] | None = None
    store: Literal[False] = False
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.tool_choice not in (None, "none") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, NamedTool):
            names = [tool.function.name for tool in self.tools]
            if self.tool_choice.function.name not in names:
                raise ValueError(f"tool_choice: {did_you_mean(self.tool_choice.function.name, names)}")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message: the last message must be the assistant's")
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, ``None`` for the system's own."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Generation):
    """The body of ``/v1/completions``."""

    prompt: Texts = Field(min_length=1, max_length=128)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] = False
    best_of: Literal[1] = 1

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, ``None`` for the system's own."""
        return self.max_tokens


RequestType = TypeVar("RequestType", bound=Generation)


def read(kind: type[RequestType], body: bytes) -> RequestType:
    """Read the body of a request.

    Raises:
        RequestError: status 400, with the field at fault and the rule.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        # A field that is not supported says more than what follows from it.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        raise _refusal(kind, first) from None


def _refusal(kind: type[Generation], error: Mapping[str, Any]) -> RequestError:
    location: Sequence[int | str] = error["loc"]
    param = _path(location)
    if error["type"] == "json_invalid":
        return RequestError(400, f"the body is not JSON: {error['msg']}", code="invalid_json")
    if error["type"] == "extra_forbidden":
        name = str(location[-1])
        known = kind.model_fields if len(location) == 1 else ()
        advice = _ADVICE.get(name) if len(location) == 1 else None
        hint = advice or (did_you_mean(name, known) if known else "leave it out")
        message = f"{_shown(param)} is not supported by this server; {_shown(hint)}"
        return RequestError(400, message, param=param, code="unsupported_parameter")
    if error["type"] == "missing":
        return RequestError(400, f"{param} is missing", param=param, code="missing_required_parameter")
    message = str(error["msg"]).removeprefix("Value error, ")
    where = f"{_shown(param)}: " if param else ""
    hint = _ADVICE.get(str(location[0]), "") if location else ""
    return RequestError(
        400, f"{where}{message}{f' ({hint})' if hint else ''}", param=param, code="invalid_value"
    )


def _path(location: Sequence[int | str]) -> str | None:
    """A place such as ``messages[0].content``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or None


def _shown(text: str | None) -> str:
    """A field's name as a message quotes it: clients choose names, and may choose long ones."""
    text = text or "the request"
    return text if len(text) <= 200 else text[:200] + "…"
