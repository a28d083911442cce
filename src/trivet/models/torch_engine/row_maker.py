"""The sequences that an operation of a program needs."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from trivet._validation import did_you_mean
from trivet.errors import ContextLengthError, EngineError, UnsupportedError
from trivet.models.engine import Request
from trivet.models.operations import Extend, Hidden, Next, Operation, Sampling, Score, Tokens
from trivet.models.torch_engine.detokenizer import Detokenizer
from trivet.models.torch_engine.loading import LoadedModel
from trivet.models.torch_engine.rows import ExtendRow, HiddenRow, NextRow, Row, ScoreRow

_LEAST = {
    "temperature": 0.0, "top_p": 0.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1e-6,
    "presence_penalty": -1e6, "frequency_penalty": -1e6,
}  # fmt: skip


class RowMaker:
    """Makes the rows of one request's operations.

    Args:
        number: the request's place in the order of submission.
        models: the engine's own model under ``""``, and the auxiliary ones by name.
        layer_count: number of blocks of the engine's own model.
        on_piece: receives the text of a committed ``Extend`` as it comes.
    """

    def __init__(
        self,
        request: Request,
        prompt: Tokens,
        number: int,
        models: Mapping[str, LoadedModel],
        layer_count: Callable[[], int],
        on_piece: Callable[[str], None],
    ) -> None:
        self._request, self._prompt, self._number = request, prompt, number
        self._models, self._own = models, models[""]
        self._layer_count, self._on_piece = layer_count, on_piece
        self._vocabulary = self._own.rows
        self._count = 0

    def make(self, operation: Operation) -> list[Row]:
        """The rows of an operation; none where there is nothing to compute.

        Raises:
            EngineError: the operation asks for what cannot be.
            ContextLengthError: it does not fit the model's context.
            UnsupportedError: it names a model that is not loaded.
        """
        self._count += 1
        match operation:
            case Extend():
                return self._extend_rows(operation)
            case Score():
                return self._score_rows(operation)
            case Next():
                return self._next_rows(operation)
            case Hidden():
                return self._hidden_rows(operation)
        raise UnsupportedError(f"this engine has no operation {type(operation).__name__}")

    def _extend_rows(self, operation: Extend) -> list[Row]:
        if operation.commit and operation.n != 1:
            raise EngineError("Extend(commit=True) needs n = 1")
        self._check(operation.prefix, 1)
        if operation.max_tokens < 1:
            return []
        self._check_sampling(operation.sampling)
        if not 0 <= operation.top_logprobs <= self._vocabulary:
            raise EngineError(f"top_logprobs must be 0 to {self._vocabulary}: {operation.top_logprobs}")
        request, own = self._request, self._own
        streams = operation.commit and (request.on_text is not None or bool(request.hooks.gates))
        watched = streams or any(operation.stop)
        rows: list[Row] = []
        for index in range(operation.n):
            rows.append(
                ExtendRow(
                    list(operation.prefix),
                    (self._number, index),
                    activations=request.hooks.activations,
                    prefix=operation.prefix,
                    prompt_length=self._prompt_length(operation.prefix),
                    room=operation.max_tokens,
                    max_tokens=operation.max_tokens,
                    context_length=own.context_length,
                    sampling=operation.sampling,
                    top_logprobs=operation.top_logprobs,
                    transforms=request.hooks.logits,
                    random=np.random.default_rng([abs(request.seed), 2, self._count, index]),
                    eos=own.eos,
                    text=Detokenizer(own.decode, operation.stop) if watched else None,
                    on_piece=self._on_piece if streams else None,
                    decode=own.decode,
                )
            )
        return rows

    def _score_rows(self, operation: Score) -> list[Row]:
        rows: list[Row] = []
        for index, continuation in enumerate(operation.continuations):
            tokens = (*operation.prefix, *continuation)
            self._check(operation.prefix, 1)
            self._check(tokens, 0)
            if continuation:
                rows.append(
                    ScoreRow(
                        list(tokens[:-1]),
                        (self._number, index),
                        activations=self._request.hooks.activations,
                        prefix_length=len(operation.prefix),
                        continuation=continuation,
                    )
                )
        return rows

    def _next_rows(self, operation: Next) -> list[Row]:
        self._check_sampling(operation.sampling)
        if operation.last is not None and not 1 <= operation.last <= len(operation.prefix):
            raise EngineError(
                f"last must be 1 to the prefix's {len(operation.prefix)} tokens: {operation.last}"
            )
        rows: list[Row] = []
        for index, name in enumerate(operation.models):
            if name not in self._models:
                raise UnsupportedError(
                    f"no model {name!r} is loaded beside this one", hint=did_you_mean(name, self._models)
                )
            model = self._models[name]
            self._check(operation.prefix, 0, model)
            goes_on = operation.prefix[: len(self._prompt)] == self._prompt
            transformed = operation.transformed and name == "" and goes_on
            rows.append(
                NextRow(
                    list(operation.prefix),
                    (self._number, index),
                    model=model.key,
                    activations=self._request.hooks.activations if name == "" else (),
                    prompt_length=self._prompt_length(operation.prefix),
                    transforms=self._request.hooks.logits if transformed else (),
                    sampling=operation.sampling,
                    last=operation.last,
                    shared=model.shared,
                )
            )
        return rows

    def _hidden_rows(self, operation: Hidden) -> list[Row]:
        self._check(operation.tokens, 0)
        count, length = self._layer_count(), len(operation.tokens)
        if operation.positions == () or not operation.layers:
            raise EngineError("Hidden needs at least one layer and one position (None is their mean)")
        for layer in operation.layers:
            if not 0 <= layer <= count:
                raise EngineError(f"layer {layer} is not there: the model has layers 0 to {count}")
        deepest, positions = max(operation.layers), operation.positions
        if positions is not None:
            for position in positions:
                if not -length <= position < length:
                    raise EngineError(f"position {position} is outside the {length} tokens")
            positions = tuple(position % length for position in positions)
        return [
            HiddenRow(
                list(operation.tokens),
                (self._number, 0),
                activations=self._request.hooks.activations,
                depth=None if self._request.hooks.activations or deepest == count else deepest,
                layers=operation.layers,
                positions=positions,
            )
        ]

    def _prompt_length(self, prefix: Tokens) -> int:
        return len(self._prompt) if prefix[: len(self._prompt)] == self._prompt else len(prefix)

    def _check(self, tokens: Tokens, room: int, model: LoadedModel | None = None) -> None:
        model = model or self._own
        context = model.context_length
        if not tokens:
            raise EngineError("a prefix must have at least one token")
        if len(tokens) + room > context:
            raise ContextLengthError(
                f"{len(tokens)} tokens do not fit the model's context of {context}",
                where=model.where,
                hint="shorten the prompt",
            )
        if min(tokens) < 0 or max(tokens) >= model.rows:
            raise EngineError(f"a token id is outside the vocabulary of {model.rows}", where=model.where)

    def _check_sampling(self, sampling: Sampling) -> None:
        """Requests are drawn for together, so what cannot be drawn must not get that far."""
        for name, least in _LEAST.items():
            value = getattr(sampling, name)
            if not (isinstance(value, int | float) and least <= value < math.inf):
                raise EngineError(f"{name} must be a number from {least:g}: {value!r}")
        for token, _ in sampling.logit_bias:
            if not 0 <= token < self._vocabulary:
                raise UnsupportedError(
                    f"logit_bias names the token {token}, outside the vocabulary of {self._vocabulary}",
                    where=self._own.where,
                )
