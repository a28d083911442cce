"""The engine: what runs requests. The PyTorch engine, llama.cpp and remote endpoints satisfy ``Engine``."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from trivet.models.operations import Chat, Continuation, ProgramFactory, Sampling, StopReason, Tokens

if TYPE_CHECKING:  # torch is heavy; hooks only name its type
    import torch

OperationName = Literal["extend", "extend_prefix", "score", "next", "hidden", "several", "judge", "commit"]
"""``extend`` continues the request's own prompt; ``extend_prefix`` any token prefix."""

HookName = Literal["logits", "activations", "gate"]


@dataclass(frozen=True)
class Capabilities:
    """What an engine does faithfully; whatever is not named here is refused, never approximated.

    ``sampling`` names the fields of ``Sampling`` that it honours. ``top_logprobs`` is the largest number of
    alternatives it returns. ``context_length`` is in tokens, ``None`` where unknown.
    """

    operations: frozenset[str]
    hooks: frozenset[str]
    sampling: frozenset[str]
    top_logprobs: int = 0
    seed: bool = True
    tools: bool = True
    images: bool = False
    context_length: int | None = None


class LogitsTransform(Protocol):
    """Changes one request's next-token logits, before temperature and filters."""

    def __call__(self, tokens: Sequence[int], prompt_length: int, logits: "torch.Tensor") -> "torch.Tensor":
        """``tokens``: prompt and answer so far; ``logits``: float32 [vocabulary]; returns the same shape."""
        ...


class ActivationHook(Protocol):
    """Reads or edits one request's hidden states at the layers in ``layers`` (numbered as in ``Hidden``)."""

    layers: tuple[int, ...]

    def __call__(self, layer: int, position: int, hidden: "torch.Tensor") -> "torch.Tensor | None":
        """``hidden``: [tokens, width], first token at ``position``. A returned tensor replaces it."""
        ...


@dataclass(frozen=True)
class GateDecision:
    """How much of the pending text may be shown.

    ``release``: number of characters of the whole answer that are released by now (it never falls).
    ``stop``: end the answer here with stop reason ``blocked``; ``replacement`` follows what was released.
    """

    release: int
    stop: bool = False
    replacement: str | None = None


class CommitGate(Protocol):
    """Nothing is shown before the gate passes it. A gate that raises blocks the answer."""

    def __call__(self, chat: Chat, text: str, final: bool) -> GateDecision:
        """``text``: the whole committed answer so far; ``final``: no more will follow."""
        ...


@dataclass(frozen=True)
class Hooks:
    """The three hooks that ride on a request. Several of a kind apply in order."""

    logits: tuple[LogitsTransform, ...] = ()
    activations: tuple[ActivationHook, ...] = ()
    gates: tuple[CommitGate, ...] = ()


@dataclass(frozen=True)
class Request:
    """One request.

    ``seed`` gives the request its own random streams: the result does not depend on what else is in the
    batch. ``on_text`` is called from the engine's thread with each piece of released text; it must be quick.
    """

    chat: Chat
    program: ProgramFactory
    seed: int
    max_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    hooks: Hooks = Hooks()
    tools: tuple[dict[str, Any], ...] = ()  # JSON schemas in OpenAI's form, rendered by the chat template
    tool_choice: str | dict[str, Any] | None = None
    continue_final_message: bool = False
    text: str | None = None  # plain text to be continued as it stands, in place of the templated chat
    on_text: Callable[[str], None] | None = None


@dataclass
class Usage:
    """Exact costs of one request.

    ``forward_tokens`` counts token positions that went through the model (shared prefixes once, and to the
    request that computed them), ``cached_tokens`` prompt positions found in the KV tree.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    forward_tokens: int = 0
    cached_tokens: int = 0
    judge_calls: int = 0


@dataclass(frozen=True)
class Completion:
    """The finished answer. ``continuation`` joins all that was committed; blocked answers show no tokens.

    ``seconds_to_first_token`` is the time until the first piece of the answer was committed: with a method
    that chooses among whole answers, nearly all of it.
    """

    text: str
    continuation: Continuation
    stop_reason: StopReason
    usage: Usage
    seconds: float
    seconds_to_first_token: float | None = None
    trace: tuple[dict[str, Any], ...] = field(default=())


@runtime_checkable
class Handle(Protocol):
    """A submitted request."""

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the completion; raises what the request raised, or ``CancelledError``."""
        ...

    def cancel(self) -> None:
        """Stop the request and free its slot; does nothing where it has finished."""
        ...

    def done(self) -> bool:
        """True when the request has finished, failed or been cancelled."""
        ...

    def add_done_callback(self, callback: Callable[["Handle"], None]) -> None:
        """Call ``callback`` once the request is done, at once where it is already."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Runs requests. Thread-safe; closing cancels what is under way."""

    @property
    def name(self) -> str:
        """The model's name as the user gave it."""
        ...

    @property
    def identity(self) -> str:
        """Hexadecimal digest of what determines the answers: weights (or endpoint), engine kind, dtype."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """What a report says of it: kind, dtype, device, source of the weights, versions (plain JSON)."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it does faithfully."""
        ...

    def submit(self, request: Request) -> Handle:
        """Queue a request.

        Raises:
            UnsupportedError: the request needs what this engine cannot do.
            ContextLengthError: the prompt is longer than the context.
            QueueFullError: the admission queue is full.
        """
        ...

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> Tokens:
        """Token ids of the chat under the model's chat template, with the generation prompt."""
        ...

    def close(self) -> None:
        """Cancel what is under way and free the memory."""
        ...


def run_all(engine: Engine, requests: Iterable[Request], *, window: int = 512) -> Iterator[Completion]:
    """Run requests and yield their completions in order; on any error the others are cancelled.

    At most ``window`` of them are with the engine at a time, so that any number can be run.
    """
    handles: deque[Handle] = deque()
    waiting = iter(requests)
    try:
        while True:
            handles.extend(engine.submit(request) for request in islice(waiting, window - len(handles)))
            if not handles:
                return
            yield handles[0].result()
            handles.popleft()
    finally:
        for handle in handles:
            handle.cancel()
