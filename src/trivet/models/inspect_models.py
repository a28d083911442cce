"""Every Inspect AI provider as an engine: ``inspect:PROVIDER/NAME``, e.g. ``inspect:anthropic/…``.

Inspect does the transport: retries, rate limits, keys from the environment. It may silently drop a setting
that a provider does not know, so only the settings that all chat providers take are declared; others are
refused. The model runs on one event loop in a thread of its own, so an engine can be
used from any thread and under any event loop.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from trivet._files import sha256_text
from trivet.errors import ConfigError, EndpointError, UnsupportedError
from trivet.models.engine import Capabilities, Handle, Request, Usage
from trivet.models.operations import Chat, Continuation, Extend, StopReason, Tokens
from trivet.models.threaded import ThreadedScheduler

if TYPE_CHECKING:
    from inspect_ai.model import ChatMessage, Model, ModelOutput
    from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo

_Result = TypeVar("_Result")
_STOP_REASONS: dict[str, StopReason] = {
    "stop": "stop",
    "tool_calls": "stop",
    "max_tokens": "length",
    "model_length": "context",
    "content_filter": "blocked",
}


class InspectEngine:
    """Runs a model of any Inspect provider.

    Args:
        model: Inspect's own model name, ``PROVIDER/NAME``.
        arguments: the provider's own arguments (``model_args``).
        connections: requests under way at once.

    Raises:
        ConfigError: Inspect does not know the provider, or what it needs is missing (a package, a key).
    """

    def __init__(self, model: str, *, arguments: dict[str, Any] | None = None, connections: int = 16) -> None:
        from inspect_ai.model import get_model

        self._loop = _LoopThread()
        try:
            self._model = get_model(model, memoize=False, **(arguments or {}))
        except Exception as error:  # each provider raises errors of its own
            self._loop.close()
            raise ConfigError(f"cannot be opened by Inspect: {error}", where=f"inspect:{model}") from None
        self._name = model
        self._capabilities = Capabilities(
            operations=frozenset({"extend", "judge", "commit"}),
            hooks=frozenset({"gate"}),
            sampling=frozenset({"temperature", "top_p"}),
            seed=False,
        )
        backend = _InspectBackend(self._model, self._loop, f"inspect:{model}")
        self._scheduler = ThreadedScheduler(backend, self._capabilities, workers=connections)

    @property
    def name(self) -> str:
        """The model's name as the user gives it."""
        return f"inspect:{self._name}"

    @property
    def identity(self) -> str:
        """Digest of the provider and name; the weights behind them cannot be seen."""
        return sha256_text(f"inspect:{self._name}")

    @property
    def description(self) -> dict[str, Any]:
        """Provider, name and Inspect's version, as plain JSON."""
        return {"engine": "inspect", "model": self._name, "inspect_ai": version("inspect_ai")}

    @property
    def capabilities(self) -> Capabilities:
        """What all chat providers do."""
        return self._capabilities

    def submit(self, request: Request) -> Handle:
        """Queue a request; see ``Engine.submit``."""
        return self._scheduler.submit(request)

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> NoReturn:
        """Refused: the provider applies its own chat template."""
        raise UnsupportedError("the provider applies its own chat template and shows no token ids")

    def close(self) -> None:
        """Cancel what is under way."""
        self._scheduler.close()
        self._loop.close()


class _LoopThread:
    """One asyncio event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trivet-inspect", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _Result], cancelled: Callable[[], bool]) -> _Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            try:
                return future.result(timeout=0.05)
            except TimeoutError:
                if future.done():  # it came between the end of the wait and here
                    return future.result()
                if cancelled():
                    future.cancel()

    def close(self) -> None:
        """End what still runs, so that nothing is left to the garbage collector, and close the loop."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    """Cancel every other task of this loop and wait until their clean-up is done."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _InspectBackend:
    """Calls ``Model.generate``."""

    def __init__(self, model: "Model", loop: _LoopThread, name: str) -> None:
        self._model = model
        self._loop = loop
        self._name = name

    def prompt(self, request: Request) -> Tokens:
        if request.continue_final_message:
            raise UnsupportedError("Inspect providers do not continue a final assistant message")
        return ()

    def encode(self, text: str) -> Tokens:
        raise UnsupportedError("the provider shows no token ids", hint="use the PyTorch engine")

    def decode(self, tokens: Sequence[int]) -> str:
        raise UnsupportedError("the provider shows no token ids", hint="use the PyTorch engine")

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> Tokens:
        raise UnsupportedError("the provider shows no token ids", hint="use the PyTorch engine")

    def extend(
        self,
        request: Request,
        operation: Extend,
        seeds: Sequence[int],
        cancelled: Callable[[], bool],
        on_text: Callable[[str], None] | None,
        usage: Usage,
    ) -> list[Continuation]:
        outputs = self._loop.run(self._generate(request, operation, len(seeds)), cancelled)
        for output in outputs:
            if output.error:
                raise EndpointError(output.error[:300], where=self._name)
            if output.usage is not None:
                usage.prompt_tokens = output.usage.input_tokens
                usage.completion_tokens += output.usage.output_tokens
                usage.forward_tokens += output.usage.input_tokens + output.usage.output_tokens
        continuations = [_continuation(output) for output in outputs]
        if on_text is not None and len(continuations) == 1:
            on_text(continuations[0].text)
        return continuations

    async def _generate(self, request: Request, operation: Extend, n: int) -> "list[ModelOutput]":
        from inspect_ai.model import GenerateConfig

        config = GenerateConfig(
            max_tokens=operation.max_tokens,
            temperature=operation.sampling.temperature,
            top_p=operation.sampling.top_p if operation.sampling.top_p != 1.0 else None,
            stop_seqs=list(operation.stop) or None,
        )
        messages = to_inspect_messages(request.chat)
        tools = [_tool_info(tool) for tool in request.tools]
        choice = _tool_choice(request.tool_choice)
        calls = (
            self._model.generate(messages, tools=tools, tool_choice=choice, config=config) for _ in range(n)
        )
        try:
            return list(await asyncio.gather(*calls))
        except Exception as error:  # each provider raises errors of its own
            raise EndpointError(f"{type(error).__name__}: {str(error)[:300]}", where=self._name) from None


def to_inspect_messages(chat: Chat) -> "list[ChatMessage]":
    """A chat as Inspect's messages, tool calls and their results included."""
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
    )

    messages: list[ChatMessage] = []
    for message in chat:
        content = message.get("content") or ""
        match message["role"]:
            case "system":
                messages.append(ChatMessageSystem(content=content))
            case "assistant":
                calls = [_tool_call(call) for call in message.get("tool_calls") or ()]
                messages.append(ChatMessageAssistant(content=content, tool_calls=calls or None))
            case "tool":
                messages.append(
                    ChatMessageTool(
                        content=content,
                        tool_call_id=message.get("tool_call_id"),
                        function=message.get("name"),
                    )
                )
            case "user":
                messages.append(ChatMessageUser(content=content))
            case role:
                raise UnsupportedError(
                    f"a message has the role {role!r}; Inspect takes system, user, assistant, tool"
                )
    return messages


def _tool_call(call: dict[str, Any]) -> "ToolCall":
    from inspect_ai.tool import ToolCall

    function = call["function"]
    arguments = function["arguments"]
    return ToolCall(
        id=call["id"],
        function=function["name"],
        arguments=json.loads(arguments) if isinstance(arguments, str) else arguments,
    )


def _tool_info(schema: dict[str, Any]) -> "ToolInfo":
    from inspect_ai.tool import ToolInfo, ToolParams

    function = schema["function"]
    return ToolInfo(
        name=function["name"],
        description=function.get("description", ""),
        parameters=ToolParams.model_validate(function.get("parameters", {"properties": {}})),
    )


def _tool_choice(choice: str | dict[str, Any] | None) -> "ToolChoice | None":
    from inspect_ai.tool import ToolFunction

    if isinstance(choice, dict):
        return ToolFunction(name=str(choice["function"]["name"]))
    names: dict[str | None, ToolChoice] = {"auto": "auto", "none": "none", "required": "any"}
    return names.get(choice)


def _continuation(output: "ModelOutput") -> Continuation:
    calls = output.message.tool_calls or ()
    return Continuation(
        tokens=(),
        text=output.completion,
        logprobs=(),
        stop_reason=_STOP_REASONS.get(output.stop_reason, "stop"),
        tool_calls=tuple(
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function, "arguments": json.dumps(call.arguments)},
            }
            for call in calls
        ),
    )
