"""What a program may ask of an engine.

A *program* is a Python generator written for ONE request: it yields operations and is resumed with their
results; the engine batches the operations of all requests in flight. Token prefixes are absolute: they begin
with the prompt (``context.prompt``), so a program may also ask about prompts of its own making (a
self-evaluation, say). The engine keeps prefixes in one KV tree, so a prefix that was computed once is not
computed again.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from trivet.errors import UnsupportedError

if TYPE_CHECKING:  # torch is heavy
    import torch

Chat: TypeAlias = list[dict[str, Any]]
"""Messages as in transformers and the OpenAI API: ``{"role": ..., "content": ...}``."""

Tokens: TypeAlias = tuple[int, ...]

StopReason: TypeAlias = Literal["stop", "length", "stop_string", "context", "blocked"]
"""``stop``: end-of-sequence token; ``length``: ``max_tokens`` reached; ``stop_string``: one of ``stop``;
``context``: the model's context is full; ``blocked``: a commit gate ended the answer."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn.

    ``temperature`` 0 is greedy. Filters apply in the order penalties, bias, temperature, top_k, top_p, min_p,
    as in transformers. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 switch the filter off.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def unfiltered(self) -> "Sampling":
        """Its penalties and bias alone: greedy, and every token may be drawn."""
        return replace(self, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)


@dataclass(frozen=True, slots=True)
class Extend:
    """Sample ``n`` continuations of ``prefix``. Result: ``list[Continuation]`` of length ``n``.

    With ``commit`` (only where ``n`` is 1) each token is committed as soon as it is sampled, which is what
    streams plain sampling. ``top_logprobs`` > 0 returns that many alternatives for each token.
    """

    prefix: Tokens
    max_tokens: int
    n: int = 1
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    commit: bool = False


@dataclass(frozen=True, slots=True)
class Continuation:
    """One continuation.

    ``tokens`` excludes the end-of-sequence token; ``logprobs`` (natural logarithm, of the model's own
    distribution before temperature and filters, after logits transforms) has one entry a token, plus one for
    the end-of-sequence token where ``stop_reason`` is ``stop``. ``text`` is cut before a stop string.
    ``top_logprobs`` has, for each token, (token, logprob) pairs, best first. ``end_token`` is the
    end-of-sequence token that ended it, where the engine shows it.
    A remote engine that returns text only leaves ``tokens`` empty.
    """

    tokens: Tokens
    text: str
    logprobs: tuple[float, ...]
    stop_reason: StopReason
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    tool_calls: tuple[dict[str, Any], ...] = ()  # set by endpoints that parse tool calls themselves
    end_token: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probabilities of given tokens. Result: one array [len(continuation)] for each continuation."""

    prefix: Tokens
    continuations: tuple[Tokens, ...]


@dataclass(frozen=True, slots=True)
class Next:
    """The next-token log-probabilities after ``prefix`` under several models.

    ``models`` names models loaded beside the engine's own, which is ``""``. Result: one float32 array
    [vocabulary] for each model: its own distribution after logits transforms, and after the penalties and the
    bias of ``sampling``, whose temperature and filters play no part. The vocabulary is the engine's own; what
    another model has no token for gets minus infinity.

    With ``last`` each array is [last, vocabulary]: the distributions after the last ``last`` tokens of
    ``prefix``, in one pass. ``transformed=False`` leaves the request's logits transforms out, for a program
    that applies them (``ProgramContext.transform``) to a distribution that it makes itself.
    """

    prefix: Tokens
    models: tuple[str, ...] = ("",)
    sampling: Sampling = Sampling()
    last: int | None = None
    transformed: bool = True


@dataclass(frozen=True, slots=True)
class Hidden:
    """Hidden states of ``tokens`` after the given layers. Result: ``{layer: array [positions, width]}``.

    Layer 0 is the embedding's output and layer k the output of block k, as in transformers'
    ``hidden_states``; the last one is after the final norm. ``positions`` are indices into ``tokens``
    (negative ones count from the end); ``None`` returns the mean over all positions as [1, width].
    """

    tokens: Tokens
    layers: tuple[int, ...]
    positions: tuple[int, ...] | None = (-1,)


class Scorer(Protocol):
    """What ``Judge`` needs of a judge; ``trivet.judges.Judge`` satisfies it."""

    def score(self, chats: Sequence[Chat]) -> Sequence[Any]:
        """Score the last assistant message of each chat."""
        ...


@dataclass(frozen=True, slots=True)
class Judge:
    """Score chats with a judge. Result: ``list[Verdict]``. Runs beside the batch and never stops it."""

    judge: Scorer
    chats: tuple[Chat, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """This continuation belongs to the answer now and may be shown. Result: ``None``."""

    continuation: Continuation


Computation: TypeAlias = Extend | Score | Next | Hidden
"""What goes through a model."""


@dataclass(frozen=True, slots=True)
class Several:
    """Operations that need not wait for one another: they run in one batch, and what they share is computed
    once. Result: the list of their results, in order.

    An ``Extend`` that commits stands alone, since an answer has one order.

    Raises:
        ValueError: one of them is not an operation that goes through a model, or it commits.
    """

    operations: tuple[Computation, ...]

    def __post_init__(self) -> None:
        for operation in self.operations:
            if not isinstance(operation, Computation):
                raise ValueError(f"{type(operation).__name__} cannot be one of Several")
            if isinstance(operation, Extend) and operation.commit:
                raise ValueError("Extend(commit=True) stands alone, not in Several")


Operation: TypeAlias = Computation | Several | Judge | Commit
Program: TypeAlias = Generator[Operation, Any, None]


def _unknown_model(model: str, template: str | None) -> Tokens:
    raise UnsupportedError(f"this engine runs one model; there is no {model!r} beside it")


def _unchanged(tokens: Tokens, logits: "torch.Tensor") -> "torch.Tensor":
    return logits


@dataclass
class ProgramContext:
    """What a program knows of its request.

    ``prompt`` is the templated prompt; on an engine that takes chats and not tokens it is empty, and only
    ``Extend(prefix=context.prompt)`` is possible there. ``random`` is the request's own stream for choices
    the program makes itself; the engine's sampling has its own. ``trace`` collects what a report may show of
    why the program chose (plain JSON values). ``eos`` are the tokens that end an answer and
    ``context_length`` the tokens that prompt and answer may have together, where the engine shows them.

    For programs that mix several models: ``prompt_of(model, template)`` is the request's chat as that model's
    own chat template shows it (or a Jinja ``template``, or the prompt itself where it has none);
    ``same_as(model)`` names the first model with the same weights, so that nothing is computed twice;
    ``transform(tokens, logits)`` applies the request's logits transforms to logits [vocabulary] that follow
    ``tokens``, which begin with ``prompt``.

    ``continues``: the answer goes on from the last message of the chat, which is the assistant's.
    """

    prompt: Tokens
    chat: Chat
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    top_logprobs: int
    random: np.random.Generator
    encode: Callable[[str], Tokens]
    decode: Callable[[Sequence[int]], str]
    render: Callable[[Chat], Tokens]
    visible: Callable[[str], str] = str  # the part of an answer that people see: what a judge is shown
    eos: frozenset[int] = frozenset()
    context_length: int | None = None
    prompt_of: Callable[[str, str | None], Tokens] = _unknown_model
    same_as: Callable[[str], str] = str
    transform: "Callable[[Tokens, torch.Tensor], torch.Tensor]" = _unchanged
    continues: bool = False

    def answered(self, text: str) -> Chat:
        """The chat with ``text`` as its answer, as judges are shown it; a continued message is one."""
        if not self.continues:
            return [*self.chat, {"role": "assistant", "content": text}]
        begun = self.chat[-1]
        return [*self.chat[:-1], {**begun, "content": f"{begun.get('content') or ''}{text}"}]

    @property
    def limit(self) -> tuple[int, StopReason]:
        """Most tokens that the answer may have, and why it ends with them."""
        if self.context_length is not None and self.context_length - len(self.prompt) < self.max_tokens:
            return self.context_length - len(self.prompt), "context"
        return self.max_tokens, "length"

    trace: list[dict[str, Any]] = field(default_factory=list)


ProgramFactory: TypeAlias = Callable[[ProgramContext], Program]
