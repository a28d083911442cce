"""Sequences that go through the model: one for each continuation, scored continuation, or state asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trivet.models.engine import LogitsTransform
from trivet.models.operations import Continuation, Sampling, StopReason, Tokens
from trivet.models.torch_engine.alignment import aligned
from trivet.models.torch_engine.detokenizer import Detokenizer
from trivet.models.torch_engine.kv_slots import Slot
from trivet.models.torch_engine.layers import Tap
from trivet.models.torch_engine.sampling import Draw, Drawn, penalised

if TYPE_CHECKING:
    from trivet.models.engine import ActivationHook


@dataclass(eq=False)
class Row:
    """One sequence. ``tokens`` are fed in order; ``computed`` of them have their keys and values in ``slot``.

    ``private`` rows (those with activation hooks) neither read nor fill the KV tree: their hidden states are
    not those of the plain model. A row with a ``depth`` needs the first blocks only; what it computes is not
    kept, since the keys and values of the other blocks are missing.
    """

    tokens: list[int]
    order: tuple[int, int]
    model: str = ""
    activations: "tuple[ActivationHook, ...]" = ()
    depth: int | None = None
    room: int = 0  # tokens that may be added
    slot: Slot | None = None
    computed: int = 0
    stored: int = 0  # how many of the computed ones are in the KV tree
    goes_on: bool = False  # in the slot of an earlier row: few tokens are new, and no other request waits
    result: Any = None
    error: BaseException | None = None
    done: bool = False

    @property
    def private(self) -> bool:
        return bool(self.activations)

    @property
    def keeps(self) -> bool:
        """Whether what it computes goes into the KV tree."""
        return not self.activations and self.depth is None

    @property
    def pending(self) -> int:
        """Tokens that wait to be fed."""
        return len(self.tokens) - self.computed

    @property
    def reusable(self) -> int:
        """How many leading tokens may come from the KV tree: nothing that must be read may be skipped."""
        return len(self.tokens) - 1

    def wanted(self, start: int, end: int) -> list[int]:
        """Positions in ``start`` … ``end - 1`` whose logits are read."""
        return [len(self.tokens) - 1] if end == len(self.tokens) else []

    def taps(self, start: int, end: int, offset: int) -> list[Tap]:
        """What reads or edits hidden states of ``start`` … ``end - 1``, at ``offset`` in the batch."""
        taps = []
        for hook in self.activations:
            for layer in hook.layers:
                taps.append(Tap(layer, offset, offset + end - start, self._guarded(hook, layer, start)))
        return taps

    def _guarded(
        self, hook: "ActivationHook", layer: int, position: int
    ) -> Callable[[torch.Tensor], torch.Tensor | None]:
        def call(hidden: torch.Tensor) -> torch.Tensor | None:
            try:
                edited = hook(layer, position, hidden)
                if edited is not None and edited.shape != hidden.shape:
                    raise ValueError(f"an activation hook gave {_size(edited)}, not {_size(hidden)}")
                return edited
            except Exception as error:  # one request's hook must not stop the others in the batch
                self.error = self.error or error
                return None

        return call

    def finish(self) -> None:
        """All tokens were fed and nothing more is to come."""
        self.done = True


def _size(values: Any) -> str:
    return "×".join(map(str, values.shape))


def transformed(
    transforms: Sequence[LogitsTransform], tokens: Sequence[int], prompt_length: int, logits: torch.Tensor
) -> torch.Tensor:
    """``logits`` [vocabulary] after the transforms; what they give is checked, for the sake of the batch."""
    for transform in transforms:
        # Transforms belong to users, who may edit in place; the batch must not notice.
        changed = transform(tuple(tokens), prompt_length, logits.clone())
        if changed.shape != logits.shape:
            raise ValueError(f"a logits transform gave {_size(changed)} logits, not {_size(logits)}")
        if changed.isnan().any():
            raise ValueError("a logits transform gave logits that are not numbers")
        if not torch.isfinite(changed).any():
            raise ValueError("a logits transform forbids every token")
        logits = changed
    return logits


@dataclass(eq=False)
class ExtendRow(Row):
    """Samples one continuation of a prefix."""

    prefix: Tokens = ()
    prompt_length: int = 0
    max_tokens: int = 0
    context_length: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    top_logprobs: int = 0
    transforms: tuple[LogitsTransform, ...] = ()
    random: np.random.Generator = field(default_factory=np.random.default_rng)
    eos: frozenset[int] = frozenset()
    text: Detokenizer | None = None
    on_piece: Callable[[str], None] | None = None
    decode: Callable[[Sequence[int]], str] = lambda tokens: ""
    answer: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[tuple[tuple[int, float], ...]] = field(default_factory=list)

    def draw(self) -> Draw:
        """Settings and state for the next token."""
        # What of the prefix follows the prompt belongs to the answer, for the penalties that count it.
        begun = [*self.prefix[self.prompt_length :], *self.answer]
        return Draw(self.sampling, self.random, self.prefix[: self.prompt_length], begun, self.top_logprobs)

    def transformed(self, logits: torch.Tensor) -> torch.Tensor:
        """``logits`` [vocabulary] after this request's transforms; a failing transform fails the request."""
        try:
            return transformed(self.transforms, self.tokens, self.prompt_length, logits)
        except Exception as error:
            self.error = error
            return logits

    def take(self, drawn: Drawn) -> None:
        """The next token was drawn."""
        self.logprobs.append(drawn.logprob)
        if drawn.token in self.eos:
            self._end("stop", drawn.token)
            return
        self.tops.append(drawn.top_logprobs)
        self.answer.append(drawn.token)
        self.tokens.append(drawn.token)
        if self.text is not None:
            piece = self.text.add(drawn.token)
            if piece and self.on_piece is not None:
                self.on_piece(piece)
            if self.text.stopped:
                self._end("stop_string")
                return
        if len(self.answer) >= self.max_tokens:
            self._end("length")
        elif len(self.tokens) >= self.context_length:
            self._end("context")

    def _end(self, reason: StopReason, end_token: int | None = None) -> None:
        if self.text is not None:
            rest = self.text.finish()
            if rest and self.on_piece is not None:
                self.on_piece(rest)
            text = self.text.text
            # A stop string may only complete with the bytes held back until the end.
            reason = "stop_string" if self.text.stopped else reason
        else:
            text = self.decode(self.answer)
        tops = tuple(self.tops) if self.top_logprobs else ()
        self.result = Continuation(
            tuple(self.answer), text, tuple(self.logprobs), reason, tops, end_token=end_token
        )
        self.finish()


@dataclass(eq=False)
class ScoreRow(Row):
    """Log-probabilities of ``continuation`` after ``prefix``; ``tokens`` are both without the last one."""

    prefix_length: int = 0
    continuation: Tokens = ()

    def __post_init__(self) -> None:
        self.result = np.empty(len(self.continuation), dtype=np.float32)

    @property
    def reusable(self) -> int:
        return self.prefix_length - 1

    def wanted(self, start: int, end: int) -> list[int]:
        return list(range(max(start, self.prefix_length - 1), end))

    def take(self, positions: list[int], logits: torch.Tensor) -> None:
        """``logits`` [positions, vocabulary] were computed."""
        first = positions[0] - self.prefix_length + 1
        targets = torch.tensor(self.continuation[first : first + len(positions)], device=logits.device)
        values = logits.gather(1, targets[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
        self.result[first : first + len(positions)] = values.cpu().numpy()
        if first + len(positions) == len(self.continuation):
            self.finish()


@dataclass(eq=False)
class NextRow(Row):
    """The next-token log-probabilities after the last token, or after each of the ``last`` ones.

    ``shared``: see ``trivet.models.torch_engine.alignment``.
    """

    prompt_length: int = 0
    transforms: tuple[LogitsTransform, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    last: int | None = None
    shared: torch.Tensor | None = None
    parts: list[torch.Tensor] = field(default_factory=list)

    @property
    def reusable(self) -> int:
        return len(self.tokens) - (self.last or 1)

    def wanted(self, start: int, end: int) -> list[int]:
        return list(range(max(start, self.reusable), end))

    def take(self, positions: list[int], logits: torch.Tensor) -> None:
        """``logits`` [positions, vocabulary] were computed."""
        logits = aligned(logits, self.shared)
        if self.transforms or self.sampling != Sampling():
            try:
                logits = torch.stack([self._changed(at + 1, row) for at, row in zip(positions, logits)])
            except Exception as error:
                self.error = error
        self.parts.append(logits.log_softmax(-1).cpu())
        if positions[-1] == len(self.tokens) - 1:
            whole = self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)
            self.result = (whole[0] if self.last is None else whole).numpy()
            self.parts = []
            self.finish()

    def _changed(self, length: int, logits: torch.Tensor) -> torch.Tensor:
        """``logits`` [vocabulary] after ``length`` tokens, transformed and penalised."""
        logits = transformed(self.transforms, self.tokens[:length], self.prompt_length, logits)
        if self.sampling != Sampling():
            prompt, answer = self.tokens[: self.prompt_length], self.tokens[self.prompt_length : length]
            logits = penalised(logits, Draw(self.sampling, prompt=prompt, answer=answer))
        return logits


@dataclass(eq=False)
class HiddenRow(Row):
    """Hidden states at chosen layers and positions (or their mean over all positions)."""

    layers: tuple[int, ...] = ()
    positions: tuple[int, ...] | None = None
    sums: dict[int, torch.Tensor] = field(default_factory=dict)
    states: dict[int, dict[int, torch.Tensor]] = field(default_factory=dict)

    @property
    def reusable(self) -> int:
        return min(self.positions) if self.positions else 0

    def wanted(self, start: int, end: int) -> list[int]:
        return []

    def taps(self, start: int, end: int, offset: int) -> list[Tap]:
        # After the request's own hooks, so that what is read is what they left.
        return super().taps(start, end, offset) + [
            Tap(layer, offset, offset + end - start, self._reader(layer, start)) for layer in self.layers
        ]

    def _reader(self, layer: int, start: int) -> Callable[[torch.Tensor], None]:
        def read(hidden: torch.Tensor) -> None:
            hidden = hidden.float()
            if self.positions is None:
                total = hidden.sum(0)
                self.sums[layer] = self.sums[layer] + total if layer in self.sums else total
                return
            kept = self.states.setdefault(layer, {})
            for position in self.positions:
                if start <= position < start + len(hidden):
                    kept[position] = hidden[position - start].clone()

        return read

    def finish(self) -> None:
        if self.positions is None:
            self.result = {
                layer: (total / len(self.tokens))[None].cpu().numpy() for layer, total in self.sums.items()
            }
        else:
            self.result = {
                layer: torch.stack([kept[position] for position in self.positions]).cpu().numpy()
                for layer, kept in self.states.items()
            }
        super().finish()
