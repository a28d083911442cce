"""Somebody's OpenAI-compatible endpoint as an engine: ``openai:URL#NAME``.

At start it is probed, since servers differ and many silently ignore what they do not know: a setting counts
as honoured only when the answers show it (``top_k=1`` at a high temperature must give the greedy answer, a
repeated seed the same answer). What the probe does not see is refused, never approximated.

An endpoint that takes chats and not tokens can only continue the request's own prompt.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from trivet._files import sha256_text
from trivet._validation import did_you_mean
from trivet.errors import ConfigError, ContextLengthError, EndpointError, UnsupportedError
from trivet.models.endpoint_probe import Probe, probe_endpoint
from trivet.models.engine import Capabilities, Handle, Request, Usage
from trivet.models.operations import Chat, Continuation, Extend, StopReason, Tokens
from trivet.models.threaded import ThreadedScheduler

if TYPE_CHECKING:
    import openai


class RemoteEngine:
    """Runs a model behind an OpenAI-compatible endpoint.

    Args:
        url: the endpoint's base, such as ``http://127.0.0.1:8000/v1``.
        model: the model's name there.
        api_key_env: name of the environment variable that holds the API key. Without it ``OPENAI_API_KEY`` is
            sent to api.openai.com only, and no key to other hosts.
        connections: requests under way at once.
        timeout: seconds that one request may take.

    Raises:
        EndpointError: the endpoint does not answer, or does not know the model.
        ConfigError: the named environment variable is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        connections: int = 16,
        timeout: float = 300.0,
    ) -> None:
        import openai

        self._url = url.rstrip("/")
        self._model = model
        self._client = openai.OpenAI(
            base_url=self._url,
            api_key=_api_key(self._url, api_key_env),
            timeout=timeout,
            max_retries=2,
        )
        self._check_model()
        self._probe: Probe = _asking(self._url, lambda: probe_endpoint(self._client, model))
        self._capabilities = Capabilities(
            operations=frozenset({"extend", "judge", "commit"}),
            hooks=frozenset({"gate"}),
            sampling=self._probe.sampling,
            top_logprobs=self._probe.top_logprobs,
            seed=self._probe.seed,
            tools=self._probe.tools,
            images=self._probe.images,
        )
        backend = _RemoteBackend(self._client, self._url, model, self._probe)
        self._scheduler = ThreadedScheduler(backend, self._capabilities, workers=connections)

    @property
    def name(self) -> str:
        """The model's name as the user gives it."""
        return f"openai:{self._url}#{self._model}"

    @property
    def identity(self) -> str:
        """Digest of the address and the model's name; the weights behind them cannot be seen."""
        return sha256_text(f"remote:{self._url}#{self._model}")

    @property
    def description(self) -> dict[str, Any]:
        """Address, probed capabilities and client version, as plain JSON."""
        return {
            "engine": "remote",
            "url": self._url,
            "model": self._model,
            "probe": self._probe.as_json(),
            "openai": version("openai"),
        }

    @property
    def capabilities(self) -> Capabilities:
        """What the probe saw it do."""
        return self._capabilities

    def submit(self, request: Request) -> Handle:
        """Queue a request; see ``Engine.submit``."""
        return self._scheduler.submit(request)

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> NoReturn:
        """Refused: the endpoint applies its own chat template."""
        raise UnsupportedError("the endpoint applies its own chat template and shows no token ids")

    def close(self) -> None:
        """Cancel what is under way."""
        self._scheduler.close()
        self._client.close()

    def _check_model(self) -> None:
        known = [model.id for model in _asking(self._url, lambda: list(self._client.models.list()))]
        if known and self._model not in known:
            raise EndpointError(
                f"has no model {self._model!r}", where=self._url, hint=did_you_mean(self._model, known)
            )


def _api_key(url: str, variable: str | None) -> str:
    if variable is not None:
        value = os.environ.get(variable)
        if not value:
            raise ConfigError(
                f"the environment variable {variable} is not set",
                where="api_key_env",
                hint=f"export {variable}=… with the endpoint's API key",
            )
        return value
    if urlsplit(url).hostname == "api.openai.com":
        return os.environ.get("OPENAI_API_KEY") or "none"
    return "none"  # the client library insists on a value; servers without keys ignore it


def _asking(url: str, ask: Callable[[], Any]) -> Any:
    """Call the endpoint and turn its failures into our errors, without the key or request in the message."""
    import httpx
    import openai

    try:
        return ask()
    except openai.APIConnectionError as error:
        raise EndpointError(
            f"cannot be reached ({type(error.__cause__ or error).__name__})",
            where=url,
            hint="check the address and that the server runs",
        ) from None
    except openai.APIStatusError as error:
        detail = _detail(error)
        if error.status_code == 400 and "context" in detail.lower() and "length" in detail.lower():
            raise ContextLengthError(detail, where=url, hint="shorten the prompt or max_tokens") from None
        hint = "set api_key_env to the variable with your key" if error.status_code in {401, 403} else None
        raise EndpointError(f"answers {error.status_code}: {detail}", where=url, hint=hint) from None
    except httpx.HTTPError as error:  # in the middle of a stream, which the client library does not wrap
        raise EndpointError(
            f"broke off its answer ({type(error).__name__})",
            where=url,
            hint="check that the server runs, and ask again",
        ) from None
    except (openai.OpenAIError, ValueError) as error:
        raise EndpointError(f"gives an answer that cannot be read: {error}", where=url) from None


def _detail(error: "openai.APIStatusError") -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])[:300]
    return error.response.text[:300]


class _RemoteBackend:
    """Chat completions, streamed."""

    def __init__(self, client: "openai.OpenAI", url: str, model: str, probe: Probe) -> None:
        self._create: Any = client.chat.completions.create
        self._url = url
        self._model = model
        self._probe = probe

    def prompt(self, request: Request) -> Tokens:
        if request.continue_final_message:
            raise UnsupportedError("the endpoint does not continue a final assistant message")
        return ()

    def encode(self, text: str) -> Tokens:
        raise UnsupportedError("the endpoint shows no token ids", hint="use the PyTorch engine")

    def decode(self, tokens: Sequence[int]) -> str:
        raise UnsupportedError("the endpoint shows no token ids", hint="use the PyTorch engine")

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> Tokens:
        raise UnsupportedError("the endpoint shows no token ids", hint="use the PyTorch engine")

    def extend(
        self,
        request: Request,
        operation: Extend,
        seeds: Sequence[int],
        cancelled: Callable[[], bool],
        on_text: Callable[[str], None] | None,
        usage: Usage,
    ) -> list[Continuation]:
        results = []
        for seed in seeds:
            arguments = self._arguments(request, operation, seed)
            show = on_text if len(seeds) == 1 else None
            answer = partial(self._stream, arguments, operation, cancelled, show, usage)
            results.append(_asking(self._url, answer))
            if cancelled():
                break
        return results

    def _arguments(self, request: Request, operation: Extend, seed: int) -> dict[str, Any]:
        sampling = operation.sampling
        arguments: dict[str, Any] = {
            "model": self._model,
            "messages": request.chat,
            self._probe.length_key: operation.max_tokens,
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        extra: dict[str, Any] = {}
        for name, neutral in (("top_p", 1.0), ("presence_penalty", 0.0), ("frequency_penalty", 0.0)):
            if getattr(sampling, name) != neutral:
                arguments[name] = getattr(sampling, name)
        for name, neutral in (("top_k", 0), ("min_p", 0.0)):
            if getattr(sampling, name) != neutral:
                extra[name] = getattr(sampling, name)
        if operation.stop:
            arguments["stop"] = list(operation.stop)
        if self._probe.seed:
            arguments["seed"] = seed
        if operation.top_logprobs:
            arguments |= {"logprobs": True, "top_logprobs": operation.top_logprobs}
        if request.tools:
            arguments["tools"] = list(request.tools)
            if request.tool_choice is not None:
                arguments["tool_choice"] = request.tool_choice
        return arguments | ({"extra_body": extra} if extra else {})

    def _stream(
        self,
        arguments: dict[str, Any],
        operation: Extend,
        cancelled: Callable[[], bool],
        on_text: Callable[[str], None] | None,
        usage: Usage,
    ) -> Continuation:
        text, finish = "", None
        logprobs: list[float] = []
        calls: dict[int, dict[str, Any]] = {}
        with self._create(**arguments) as stream:
            for chunk in stream:
                if cancelled():
                    break
                if chunk.usage is not None:
                    usage.prompt_tokens = chunk.usage.prompt_tokens
                    usage.completion_tokens += chunk.usage.completion_tokens
                    usage.forward_tokens += chunk.usage.total_tokens
                for choice in chunk.choices[:1]:
                    finish = choice.finish_reason or finish
                    if choice.logprobs is not None:
                        logprobs.extend(entry.logprob for entry in choice.logprobs.content or ())
                    for call in choice.delta.tool_calls or ():
                        _join_tool_call(calls, call)
                    if choice.delta.content:
                        text += choice.delta.content
                        if on_text is not None:
                            on_text(choice.delta.content)
        if finish is None and not cancelled():
            raise EndpointError("ended its answer without saying why it stopped", where=self._url)
        reason: StopReason = (
            "length" if finish == "length" else "blocked" if finish == "content_filter" else "stop"
        )
        return Continuation(
            tokens=(),
            text=text,
            logprobs=tuple(logprobs),
            stop_reason=reason,
            tool_calls=tuple(calls[index] for index in sorted(calls)),
        )


def _join_tool_call(calls: dict[int, dict[str, Any]], delta: Any) -> None:
    """Tool calls arrive in pieces: the id and name first, the arguments' JSON bit by bit."""
    call = calls.setdefault(
        delta.index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
    )
    call["id"] = delta.id or call["id"]
    if delta.function is not None:
        call["function"]["name"] += delta.function.name or ""
        call["function"]["arguments"] += delta.function.arguments or ""
