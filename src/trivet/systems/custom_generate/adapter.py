"""A decoding method as the ``custom_generate`` of transformers, over the caller's own model.

::

    rain = CustomGenerate({"method": "rain", "searches": 8}, tokenizer=tokenizer)
    output = model.generate(**inputs, custom_generate=rain, chats=[chat], max_new_tokens=48)

The program is the one that runs in a system, and gives the same answer for the same prompt, sampling and
seed. Each row of the batch is a request of its own. The model is used as it is, and is afterwards what it was
before: see ``trivet.models.torch_engine.borrowed``.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation import GenerateDecoderOnlyOutput

from trivet.errors import ConfigError
from trivet.models.engine import Completion, Hooks, Request
from trivet.models.operations import Chat, Program, ProgramContext, Sampling, Tokens
from trivet.models.torch_engine.borrowed import BorrowedModels
from trivet.models.torch_engine.loading import LoadedModel, in_memory
from trivet.systems.custom_generate import settings
from trivet.systems.custom_generate.beside import ModelsBeside
from trivet.systems.custom_generate.chats import chat_of, given_chats, same_prompt
from trivet.systems.custom_generate.processors import RowProcessors, without_drawing
from trivet.systems.custom_generate.settings import Stopping
from trivet.systems.parts import decoding_part
from trivet.systems.spec import PLAIN


@dataclass
class CustomGenerateOutput(GenerateDecoderOnlyOutput):  # type: ignore[misc]
    """What ``generate`` returns with ``return_dict_in_generate``: ``sequences`` and ``completions``.

    ``completions`` has one ``Completion`` for each row: text, log-probabilities, stop reason, exact costs,
    and the trace that says why the method chose. The other fields stay empty.
    """

    completions: tuple[Completion, ...] | None = None


@dataclass(frozen=True)
class _Batch:
    """One call of ``generate``: for each row its padding on the left, its prompt, its chat, its seed."""

    rows: list[tuple[Tokens, Tokens]]
    chats: list[Chat]
    chats_given: bool
    seeds: list[int]
    sampling: Sampling
    stopping: Stopping
    processors: list[Any]
    on_text: Callable[[int, str], None] | None


class CustomGenerate:
    """A decoding method for ``model.generate(..., custom_generate=…)``.

    It holds nothing of a call, so one serves any number of models and threads; the models beside, which are
    loaded at the first call that needs them, stay with it.

    Args:
        settings: what ``decode:`` of a system holds, ``{"method": NAME, …}``, or the name alone.
        tokenizer: of the models that it will be used with.
        models: models in memory, by the names that the settings give them; for one with another tokenizer
            a pair (model, tokenizer). Other names are read from disk.
        base: folder that relative paths in the settings refer to, by default the working directory.

    Raises:
        ConfigError: there is no such method, or its settings are wrong.
        JudgeError: its judge cannot be built.
    """

    def __init__(
        self,
        settings: str | Mapping[str, Any],
        *,
        tokenizer: PreTrainedTokenizerBase,
        models: Mapping[str, Any] | None = None,
        base: Path | None = None,
    ) -> None:
        named = {"method": settings} if isinstance(settings, str) else dict(settings)
        if not isinstance(named.setdefault("method", PLAIN), str):
            raise ConfigError("the key 'method' must name the method", where="custom_generate")
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ConfigError(
                f"tokenizer: give the models' tokenizer (received {tokenizer!r:.80})", where="custom_generate"
            )
        self._tokenizer = tokenizer
        self._decoding = decoding_part(named, base=base or Path.cwd(), where="custom_generate")
        self._beside = ModelsBeside(self._decoding, tokenizer, models or {})

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Sequence[Any] = (),
        stopping_criteria: Sequence[Any] = (),
        generation_config: Any = None,
        *,
        seed: int | Sequence[int] = 0,
        chats: Sequence[Chat] | None = None,
        on_text: Callable[[int, str], None] | None = None,
        **model_kwargs: Any,
    ) -> torch.Tensor | CustomGenerateOutput:
        """What ``generate`` calls. ``seed``, ``chats`` and ``on_text`` are given to ``generate`` by name.

        Args:
            model: the caller's; any decoder that the PyTorch engine runs.
            input_ids: [rows, length], padded on the left where ``attention_mask`` says so.
            logits_processor: act under every method; see ``RowProcessors`` for what they are shown.
            stopping_criteria: length, end-of-sequence tokens, and stop strings as ``StopStringCriteria``
                (``stop_strings`` of ``generate`` needs a tokenizer, which it hands to no custom generate).
                The text of special tokens holds no stop string.
            generation_config: as prepared by ``generate``. Mind its own default of ``top_k=50``.
            seed: 0 or more, of the first row, the next ones having seed + 1, seed + 2, …; or one for each
                row. A row's answer depends on its own seed and not on the rest of the batch.
            chats: the chats that the prompts were rendered from, one for each prompt. Judges see them, and
                models beside with another template are shown them. Without them a judge sees the prompt's
                text as one message of the user, which is refused for a prompt that a template has rendered.
            on_text: called from another thread with (row, piece of text) as the answer is committed. (A
                ``streamer`` never reaches a custom generate.)
            model_kwargs: as prepared by ``generate``.

        Returns:
            int64 [rows, longest], prompts with their answers, the end-of-sequence token included, padded on
            the right; as ``sequences`` of a ``CustomGenerateOutput`` with ``return_dict_in_generate``.

        Raises:
            UnsupportedError: names what the call asks for and cannot be honoured.
            ContextLengthError: a prompt is longer than the model's context.
            ConfigError: ``seed`` or ``chats`` do not fit the batch.
            TrivetError: what the method raised.
        """
        settings.check(generation_config, model_kwargs)
        rows = settings.prompts(
            input_ids, model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
        )
        stopping = settings.stopping(stopping_criteria)
        where = str(model.config.name_or_path or type(model).__name__)
        own = in_memory(model, self._tokenizer, eos=frozenset(stopping.eos), where=where)
        copies = generation_config.num_return_sequences or 1
        batch = _Batch(
            rows=rows,
            chats=(
                [chat_of(prompt, own, needed=self._decoding.reads_chat) for _, prompt in rows]
                if chats is None
                else given_chats(chats, len(rows), copies)
            ),
            chats_given=chats is not None,
            seeds=_seeds(seed, len(rows)),
            sampling=settings.sampling(generation_config),
            stopping=stopping,
            processors=without_drawing(logits_processor, generation_config),
            on_text=on_text,
        )
        completions = self._run(batch, {"": own, **self._beside.of(own)})
        sequences = _sequences(input_ids, completions, stopping.eos, generation_config.pad_token_id)
        if generation_config.return_dict_in_generate:
            return CustomGenerateOutput(sequences=sequences, completions=completions)
        return sequences

    def _run(self, batch: _Batch, models: Mapping[str, LoadedModel]) -> tuple[Completion, ...]:
        with BorrowedModels(models) as engine:
            handles = [
                engine.submit(self._request(batch, index, models), prompt)
                for index, (_, prompt) in enumerate(batch.rows)
            ]
            return tuple(handle.result() for handle in handles)

    def _request(self, batch: _Batch, index: int, models: Mapping[str, LoadedModel]) -> Request:
        padding, prompt = batch.rows[index]
        hooks = Hooks()
        if batch.processors:
            row = RowProcessors(batch.processors, index=index, padding=padding, device=models[""].device)
            hooks = Hooks(logits=(row,))

        def program(context: ProgramContext) -> Program:
            if not batch.chats_given:
                context = replace(context, prompt_of=partial(same_prompt, prompt, models))
            running: Program = self._decoding.make(context)
            return running

        return Request(
            chat=batch.chats[index],
            program=program,
            seed=batch.seeds[index],
            max_tokens=batch.stopping.max_length - len(padding) - len(prompt),
            sampling=batch.sampling,
            stop=batch.stopping.stop,
            hooks=hooks,
            on_text=None if batch.on_text is None else partial(batch.on_text, index),
        )


def _seeds(seed: int | Sequence[int], rows: int) -> list[int]:
    seeds: list[int] = []
    with suppress(TypeError, ValueError):  # what is no number is told as any other mistake
        seeds = (
            [int(seed) + index for index in range(rows)]
            if isinstance(seed, int | Integral)
            else [operator.index(one) for one in seed]
        )
    if len(seeds) != rows or min(seeds) < 0:
        raise ConfigError(
            f"seed: give one number from 0, or one for each of the {rows} rows (received {seed!r:.80})",
            where="generate",
        )
    return seeds


def _sequences(
    input_ids: torch.Tensor, completions: Sequence[Completion], eos: Tokens, pad: int | None
) -> torch.Tensor:
    """Prompts and answers side by side: int64 [rows, longest]."""
    answers = []
    for completion in completions:
        continuation = completion.continuation
        end: Tokens = ()
        if continuation.stop_reason == "stop" and eos:
            end = (eos[0] if continuation.end_token is None else continuation.end_token,)
        answers.append((*continuation.tokens, *end))
    if pad is None and eos:
        pad = eos[0]  # as ``generate`` itself fills up
    longest = max(map(len, answers))
    if pad is None and min(map(len, answers)) < longest:
        raise ConfigError(
            "the answers differ in length and there is no token to fill them up with",
            where="generate",
            hint="set pad_token_id",
        )
    rows = [[*answer, *[pad or 0] * (longest - len(answer))] for answer in answers]
    added = torch.tensor(rows, dtype=input_ids.dtype, device=input_ids.device)
    return torch.cat([input_ids, added.reshape(len(rows), longest)], dim=1)
