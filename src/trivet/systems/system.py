"""The system: what a person talks to. A model + system prompt + decoding method + guards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from trivet._files import canonical_json, sha256_text
from trivet._validation import validate
from trivet.judges.base import Judge
from trivet.models.engine import Completion, Engine, Hooks, Request
from trivet.models.engines import get_engine
from trivet.models.names import resolve_model
from trivet.models.operations import Chat, Program, ProgramContext, Sampling
from trivet.models.reasoning import ReasoningMarkers
from trivet.systems.answer import Answer, make_answer
from trivet.systems.checks import check_capabilities, check_tools, takes_tokens
from trivet.systems.likelihoods import submit_scores
from trivet.systems.parts import Part, decoding_part, guard_part
from trivet.systems.spec import SamplingSpec, Source, SystemSpec, load_spec
from trivet.systems.tool_calls import arguments_for
from trivet.systems.waiting import Pending, submit_and_wait


@dataclass
class _Seen:
    """What the program of one request learns of its prompt, for taking the answer apart later."""

    opened: bool = False
    decode: Callable[[Sequence[int]], str] | None = None


class System:
    """A model with a system prompt, a decoding method and guards; thread-safe.

    Nothing is loaded before the first answer, or before ``open()``. Systems of the same model share one
    engine.

    Args:
        spec: what it is made of.
        base: folder that relative paths in it refer to, by default the working directory.
        deterministic: answers that do not depend on what else is running, bit by bit.
        engine: what runs the model, in place of the shared engine that the specification asks for.
    """

    def __init__(
        self,
        spec: SystemSpec,
        *,
        base: Path | None = None,
        deterministic: bool = False,
        engine: Engine | None = None,
    ) -> None:
        self.spec, self.base = load_spec(spec, base=base)
        self._deterministic, self._given = deterministic, engine
        self.markers = (
            ReasoningMarkers(spec.reasoning.start, spec.reasoning.end) if spec.reasoning is not None else None
        )

    @classmethod
    def load(
        cls,
        source: Source,
        *,
        name: str | None = None,
        base: Path | None = None,
        deterministic: bool = False,
    ) -> "System":
        """Read a system from a YAML file, the mapping that one would hold, or a bare model name.

        Args:
            source: see ``trivet.systems.spec.load_spec``.
            name: used instead of the specification's own.
            base: folder that relative paths refer to, by default the file's own or the working directory.
            deterministic: see the class.

        Raises:
            ConfigError: names the file, the key, the rule and the next step.
        """
        spec, folder = load_spec(source, base=base)
        if name is not None:
            spec = spec.model_copy(update={"name": name})
        return cls(spec, base=folder, deterministic=deterministic)

    @property
    def name(self) -> str:
        """Its name: given, or from the file or the model."""
        return str(self.spec.name)

    @cached_property
    def decoding(self) -> Part:
        """The decoding method with its settings and the judges that it uses."""
        return decoding_part(self.spec.decode, base=self.base, where=self.name)

    @cached_property
    def guards(self) -> tuple[Part, ...]:
        """The guards with their settings, in order."""
        return tuple(guard_part(entry, base=self.base, where=self.name) for entry in self.spec.guards)

    @property
    def judges(self) -> tuple[Judge, ...]:
        """Every judge that chooses or blocks answers of this system; none of them may measure it."""
        return tuple(judge for part in (self.decoding, *self.guards) for judge in part.judges.values())

    @property
    def trained_on(self) -> frozenset[str]:
        """Digests of the prompts that its models are known to have learnt from.

        Raises:
            ModelError, DataError: a model is not there, or its record is damaged.
        """
        if self._given is not None:  # whoever made the engine knows what it runs
            return frozenset()
        models = (self.spec.model, *self.decoding.models.values())
        return frozenset[str]().union(*(resolve_model(name).trained_on for name in models))

    @cached_property
    def engine(self) -> Engine:
        """The engine that runs its model, opened and checked at the first call.

        Raises:
            ModelError: the model cannot be found or loaded.
            UnsupportedError: the system needs what this engine cannot do; says what and which engine can.
        """
        parts = (self.decoding, *self.guards)  # a mistake in them is told before weights are read
        spec = self.spec
        engine = self._given or get_engine(
            spec.model,
            engine=spec.engine,
            device=spec.device,
            dtype=spec.dtype,
            device_map=spec.device_map,
            deterministic=self._deterministic,
            api_key_env=spec.api_key_env,
            auxiliary=self.decoding.models,
        )
        check_capabilities(engine, parts, spec.sampling.sampling(), where=self.name)
        return engine

    def open(self) -> "System":
        """Load the model now; returns the system itself.

        Raises:
            ConfigError, ModelError, UnsupportedError: as ``engine``.
        """
        _ = self.engine
        return self

    @cached_property
    def hash12(self) -> str:
        """12 hexadecimal digits of the digest of all that determines its answers; opens the engine.

        In it: weights, engine and dtype; the system prompt's text; decoding method, version and settings with
        defaults filled in; the judges' identities; guards; sampling; max_tokens; reasoning markers. Not in
        it: name, paths, device.
        """
        return sha256_text(canonical_json(self._content()))[:12]

    @property
    def identity(self) -> str:
        """``name@hash12``: how outputs name it; opens the engine."""
        return f"{self.name}@{self.hash12}"

    def _content(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "model": self.engine.identity,
            "system_prompt": spec.system_prompt,
            "decode": self.decoding.content(),
            "guards": [guard.content() for guard in self.guards],
            "sampling": spec.sampling.model_dump(mode="json"),
            "max_tokens": spec.max_tokens,
            "reasoning": spec.reasoning.model_dump() if spec.reasoning is not None else None,
        }

    def describe(self) -> dict[str, Any]:
        """What a report shows of it, as plain JSON; opens the engine."""
        return {
            "name": self.name,
            "identity": self.identity,
            "model_name": self.spec.model,
            "engine": self.engine.description,
            **self._content(),
            "judges": [
                {"name": judge.name, "identity": judge.identity, "quality": judge.quality}
                for judge in self.judges
            ],
        }

    def chat(self, messages: str | Chat) -> Chat:
        """The chat as the model gets it: with the system prompt, which a chat's own system text follows."""
        chat = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        leading = 0
        while leading < len(chat) and chat[leading].get("role") == "system":
            leading += 1
        if leading == 0 and not self.spec.system_prompt:
            return chat
        texts = [self.spec.system_prompt, *(_text(message) for message in chat[:leading])]
        joined = "\n\n".join(text for text in texts if text)
        return [{"role": "system", "content": joined}, *chat[leading:]]

    def submit(
        self,
        messages: str | Chat,
        *,
        seed: int = 0,
        max_tokens: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        stop: Sequence[str] = (),
        top_logprobs: int = 0,
        tools: Sequence[dict[str, Any]] = (),
        tool_choice: str | dict[str, Any] | None = None,
        continue_final_message: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Pending[Answer]:
        """Ask a question; returns at once.

        Args:
            messages: a chat, or the text of one user message.
            seed: 0 or more; equal seeds give equal answers.
            max_tokens: of the answer, by default the system's own.
            sampling: fields of ``SamplingSpec`` that override the system's own.
            stop: strings that end the answer; they are not part of it.
            top_logprobs: alternatives returned with each token.
            tools: JSON schemas in OpenAI's form, rendered by the chat template and parsed from the answer.
            tool_choice: ``None`` or ``"auto"``: the model decides; ``"none"``; ``"required"`` or one function
                in OpenAI's form where the engine can force it.
            continue_final_message: the answer goes on from the last message, which is the assistant's.
            on_text: called from the engine's thread with each piece of the raw text, reasoning included.

        Raises:
            UnsupportedError: the engine cannot do this faithfully.
            ContextLengthError: the prompt is longer than the context.
            QueueFullError: too much is under way; ``answer`` waits and asks again.
            ModelError: the model has no chat template, or it refuses the chat.
        """
        chat = arguments_for(self.engine.description.get("engine"), self.chat(messages))
        check_tools(self.engine, chat, tools, tool_choice, where=self.name)
        seen = _Seen()
        request = Request(
            chat=chat,
            program=self._program(seen),
            seed=seed,
            max_tokens=self.spec.max_tokens if max_tokens is None else max_tokens,
            sampling=self.sampling(sampling or {}),
            stop=tuple(stop),
            top_logprobs=top_logprobs,
            hooks=self._hooks(),
            tools=tuple(tools),
            tool_choice=tool_choice,
            continue_final_message=continue_final_message,
            on_text=on_text,
        )

        def finish(completion: Completion) -> Answer:
            return make_answer(
                completion,
                system=self.identity,
                markers=self.markers,
                opened=seen.opened,
                decode=seen.decode,
                tools=tools if tool_choice != "none" else (),
            )

        return Pending(self.engine.submit(request), finish, lambda: seen.opened)

    async def answer(self, messages: str | Chat, **options: Any) -> Answer:
        """Ask a question and wait, under asyncio or trio; ``options`` as for ``submit``.

        Cancelling frees the request's slot. Where the admission queue is full it waits for its turn.

        Raises:
            TrivetError: as ``submit``, and what the request raised.
        """
        return await submit_and_wait(lambda: self.submit(messages, **options))

    def answer_sync(self, messages: str | Chat, **options: Any) -> Answer:
        """As ``answer``, from plain code: waits in the calling thread."""
        return self.submit(messages, **options).answer()

    async def log_likelihoods(self, prompt: str | Chat, continuations: Sequence[str]) -> list[float]:
        """Natural logarithm of the probability of each continuation after ``prompt``, summed over its tokens.

        This is the bare model's: a chat is rendered with the system prompt and the generation prompt, plain
        text is continued as it stands.

        Raises:
            UnsupportedError: the system has a decoding method or a guard, whose answers have no such
                probability, or the engine cannot score given tokens.
        """
        return await submit_and_wait(lambda: submit_scores(self, prompt, continuations))

    def sampling(self, overrides: Mapping[str, Any]) -> Sampling:
        """The system's sampling with some fields of ``SamplingSpec`` replaced.

        Raises:
            ConfigError: a field is not known or out of bounds.
        """
        if not overrides:
            return self.spec.sampling.sampling()
        values = {**self.spec.sampling.model_dump(), **overrides}
        return validate(SamplingSpec, values, where=f"{self.name}: sampling").sampling()

    def _hooks(self) -> Hooks:
        """Hooks of one request; guards keep state, so each request has its own."""
        made: list[Hooks] = [guard.make() for guard in self.guards]
        return Hooks(
            logits=tuple(hook for hooks in made for hook in hooks.logits),
            activations=tuple(hook for hooks in made for hook in hooks.activations),
            gates=tuple(hook for hooks in made for hook in hooks.gates),
        )

    def _program(self, seen: _Seen) -> Callable[[ProgramContext], Program]:
        def factory(context: ProgramContext) -> Program:
            if takes_tokens(self.engine):
                seen.decode = context.decode
            if self.markers is not None and context.prompt:
                tail = context.decode(context.prompt[-16:])
                seen.opened = tail.rstrip().endswith(self.markers.start)
            visible = self._visible(seen.opened)
            program: Program = self.decoding.make(replace(context, visible=visible))
            return program

        return factory

    def _visible(self, opened: bool) -> Callable[[str], str]:
        markers = self.markers
        if markers is None:
            return str
        return lambda text: markers.separate(text, opened=opened).text


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))
