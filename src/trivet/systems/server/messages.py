"""Messages and tools of a chat completion, checked, and as the chat that a system takes."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from trivet.models.operations import Chat


class Strict(BaseModel):
    """No unknown fields, no coercion of types; ``null`` means that a field is not given, as in the API."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if value is not None}
        return values


class ImageURL(Strict):
    """An image by its address."""

    url: str
    detail: str | None = None


class Part(Strict):
    """A part of a message's content."""

    type: Literal["text", "image_url", "refusal"]
    text: str = ""
    refusal: str = ""
    image_url: ImageURL | None = None

    @model_validator(mode="after")
    def _holds_its_kind(self) -> "Part":
        if self.type not in self.model_fields_set:
            raise ValueError(f"a part of type {self.type!r} has the field {self.type!r}")
        return self

    def as_chat(self) -> dict[str, Any]:
        """As the engines take it."""
        if self.type == "image_url":
            assert self.image_url is not None
            return {"type": "image_url", "image_url": {"url": self.image_url.url}}
        return {"type": "text", "text": self.text if self.type == "text" else self.refusal}


class CalledFunction(Strict):
    """What an earlier answer called; ``arguments`` is the JSON text of an object."""

    name: str
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, value: str) -> str:
        try:
            arguments = json.loads(value or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ValueError("must be the JSON text of an object")
        return value


class Call(Strict):
    """A tool call of an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Strict):
    """One message. Reasoning and annotations of earlier answers are left out, as reasoning models want it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] = Field(default_factory=list)
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: list[Any] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _text_is_one_part(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_its_role(self) -> "Message":
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only messages of the assistant have tool_calls")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of a tool names its tool_call_id")
        if self.content is None and not self.tool_calls and self.refusal is None:
            raise ValueError("content is missing")
        return self

    def as_chat(self) -> dict[str, Any]:
        """As a system takes it; several texts become one."""
        parts = [part.as_chat() for part in self.content or ()]
        content: Any = parts
        if all(part["type"] == "text" for part in parts):
            content = "".join(part["text"] for part in parts) or self.refusal or ""
        entry: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role}
        entry["content"] = content
        if self.tool_calls:
            entry["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        for key in ("name", "tool_call_id"):
            if getattr(self, key) is not None:
                entry[key] = getattr(self, key)
        return entry


def to_chat(messages: list[Message]) -> Chat:
    """The chat that a system takes."""
    return [message.as_chat() for message in messages]


class Function(Strict):
    """A function that the model may call. ``parameters`` is its JSON schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: Literal[False] = False


class Tool(Strict):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function

    def as_schema(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return {"type": "function", "function": self.function.model_dump(exclude={"strict"})}


class NamedFunction(Strict):
    """The name of a function."""

    name: str


class NamedTool(Strict):
    """One tool that is to be called."""

    type: Literal["function"]
    function: NamedFunction
