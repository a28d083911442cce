"""A system as an Inspect model: ``--model trivet/path/to/system.yaml`` or ``trivet/MODEL_NAME``.

Inspect constructs a provider twice, so the constructor loads nothing: the system is read at the first
request, and its engine is shared by all systems of the same model.
"""

import hashlib
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread
from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput
from inspect_ai.tool import ToolChoice, ToolInfo

from trivet._files import canonical_json
from trivet._validation import did_you_mean, validate
from trivet.errors import ConfigError
from trivet.models.operations import Chat
from trivet.systems.answer import Answer
from trivet.systems.inspect_config import Options, check_options, read_config
from trivet.systems.inspect_messages import completion_choice, to_chat, to_choice, to_schemas, usage_of
from trivet.systems.spec import SystemSpec, load_spec
from trivet.systems.system import System

MAX_CONNECTIONS = 32
"""Requests under way at once where neither the task nor the command line says."""

_OVERRIDES = ("engine", "device", "dtype", "device_map")


class TrivetAPI(ModelAPI):
    """Inspect's side of a system.

    Args:
        model_name: what follows ``trivet/``: the path of a system's YAML file, or a model's name.
        base_url: refused; an endpoint is a model's name (``openai:URL#NAME``).
        api_key: refused; endpoints name an environment variable.
        config: Inspect's; nothing in it is needed before a request.
        system: the system itself, or the mapping that its YAML file would hold; then ``model_name`` is only
            its name.
        arguments: ``engine``, ``device``, ``dtype``, ``device_map`` in place of the specification's.

    Raises:
        ConfigError: an unknown argument, or a base URL or key.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature; never changed
        *,
        system: System | Mapping[str, Any] | str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        if base_url is not None or api_key is not None:
            raise ConfigError(
                "trivet systems take no base URL or API key",
                where=f"trivet/{model_name}",
                hint="name the endpoint in the system: model: openai:URL#NAME",
            )
        for name in arguments:
            if name not in _OVERRIDES:
                raise ConfigError(
                    f"unknown model argument {name!r}",
                    where=f"trivet/{model_name}",
                    hint=did_you_mean(name, ("system", *_OVERRIDES)),
                )
        self._source = None if isinstance(system, System) else system
        self._arguments = arguments
        self._folder = Path.cwd()  # the command line's, since solvers may change it later
        self._opened = system if isinstance(system, System) else None
        self._opening = threading.Lock()
        self._calls: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._calls_outside = 0

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer a request of Inspect.

        Raises:
            UnsupportedError: the request needs what the system or its engine cannot do; names it.
            TrivetError: see ``System.answer``.
        """
        number, place = self.count_call(), _place()
        options = read_config(config)
        system = await self._system()
        check_options(options, system.engine, where=system.name)
        seed = request_seed(options.seed or 0, *place, number)
        answers = await _answers(
            system,
            to_chat(input, system.spec.reasoning),
            options,
            seed=seed,
            tools=to_schemas(tools),
            tool_choice=to_choice(tool_choice) if tools else None,
            continue_final_message=bool(input) and input[-1].role == "assistant",
        )
        return ModelOutput(
            model=system.identity,
            choices=[
                completion_choice(
                    answer,
                    logprobs=options.logprobs,
                    one_tool_call=options.one_tool_call,
                    call_prefix=f"call_{number}_{index}",
                )
                for index, answer in enumerate(answers)
            ],
            usage=usage_of(answers),
            metadata=_metadata(system, answers, seed),
        )

    async def log_likelihoods(self, prompt: str | Chat, continuations: Sequence[str]) -> list[float]:
        """See ``System.log_likelihoods``; refused for systems with a decoding method or guard."""
        return await (await self._system()).log_likelihoods(prompt, continuations)

    def count_call(self) -> int:
        """The number of this request within its sample, from 0; counts it.

        Whoever answers a request in the provider's place, as a journal of finished answers does, calls this,
        so that the requests after it keep their seeds.
        """
        sample = _sample()
        if sample is None:
            self._calls_outside += 1
            return self._calls_outside - 1
        number = self._calls.get(sample, 0)
        self._calls[sample] = number + 1
        return number

    async def _system(self) -> System:
        opened = self._opened
        return await anyio.to_thread.run_sync(self._open) if opened is None else opened

    def _open(self) -> System:
        with self._opening:
            opened = self._opened
            if opened is None:
                source = self.model_name if self._source is None else self._source
                if isinstance(source, Mapping):
                    source = {"name": re.sub(r"[^A-Za-z0-9._+-]+", "-", self.model_name), **source}
                spec, folder = load_spec(source, base=self._folder)
                values = {**spec.model_dump(), **self._arguments}
                spec = validate(SystemSpec, values, where=f"trivet/{self.model_name}")
                opened = System(spec, base=folder).open()
                self._opened = opened
            return opened

    def max_connections(self) -> int:
        """``MAX_CONNECTIONS``."""
        return MAX_CONNECTIONS

    def connection_key(self) -> str:
        """Each system has its own limit of connections."""
        return self.model_name

    def collapse_user_messages(self) -> bool:
        """Most chat templates want the roles to alternate."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """Most chat templates want the roles to alternate."""
        return True

    def auto_reasoning_history(self) -> Literal["none", "all", "last"]:
        """Reasoning of earlier turns is left out, as the chat templates of reasoning models do."""
        return "none"


def request_seed(seed: int, task: str, sample: str, epoch: int, number: int) -> int:
    """The seed of one request, in [0, 2⁵³).

    Inspect gives all epochs of a sample the same seed, so that the request's own place must go into it:
    otherwise every epoch would give the same answer.
    """
    digest = hashlib.sha256(canonical_json([seed, task, sample, epoch, number]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11


def _sample() -> Any:
    """Inspect's record of the sample that is being answered, ``None`` outside of samples."""
    from inspect_ai.log._samples import sample_active

    return sample_active()


def _place() -> tuple[str, str, int]:
    """Task, sample id and epoch of the request under way."""
    sample = _sample()
    if sample is None:
        return "", "", 0
    return str(sample.task), str(sample.sample.id), int(sample.epoch)


async def _answers(
    system: System, chat: Chat, options: Options, *, seed: int, **request: Any
) -> list[Answer]:
    """As many answers as choices are asked for, at once; each from its own seed, the first from ``seed``."""
    answers: dict[int, Answer] = {}

    async def answer(index: int) -> None:
        answers[index] = await system.answer(
            chat,
            seed=seed if index == 0 else request_seed(seed, "choice", "", 0, index),
            max_tokens=options.max_tokens,
            sampling=options.sampling,
            stop=options.stop,
            top_logprobs=options.top_logprobs,
            **request,
        )

    if options.choices == 1:
        await answer(0)
    else:
        async with anyio.create_task_group() as group:
            for index in range(options.choices):
                group.start_soon(answer, index)
    return [answers[index] for index in range(options.choices)]


def _metadata(system: System, answers: Sequence[Answer], seed: int) -> dict[str, Any]:
    """What a report needs of an answer besides its text. ``costs`` are of all choices together.

    A system with guards shows no trace: it may hold text that they keep back.
    """
    firsts = [a.seconds_to_first_token for a in answers if a.seconds_to_first_token is not None]
    return {
        "system": system.identity,
        "seed": seed,
        "trace": [] if system.guards else [entry for answer in answers for entry in answer.trace],
        "costs": {
            "prompt_tokens": sum(answer.usage.prompt_tokens for answer in answers),
            "completion_tokens": sum(answer.usage.completion_tokens for answer in answers),
            "forward_tokens": sum(answer.usage.forward_tokens for answer in answers),
            "cached_tokens": sum(answer.usage.cached_tokens for answer in answers),
            "judge_calls": sum(answer.usage.judge_calls for answer in answers),
            "seconds": max(answer.seconds for answer in answers),
            "seconds_to_first_token": min(firsts) if firsts else None,
        },
    }
