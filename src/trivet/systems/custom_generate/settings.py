"""What a call of ``generate`` asks for, as an engine takes it; what cannot be honoured is refused by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import EosTokenCriteria, MaxLengthCriteria, StopStringCriteria

from trivet.errors import UnsupportedError
from trivet.models.operations import Sampling, Tokens

# Field of GenerationConfig → the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0, 0.0),
    "dola_layers": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "diversity_penalty": (None, 0.0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "guidance_scale": (None, 1, 1.0),
    "watermarking_config": (None,),
    "max_time": (None,),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "use_mtp": (None, False),
    "is_assistant": (None, False),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "output_scores": (None, False),
    "output_logits": (None, False),
}
_REFUSED_WHERE_SAMPLED: dict[str, tuple[Any, ...]] = {
    "typical_p": (None, 1.0),
    "top_h": (None,),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
}
_ADVICE = {
    "num_beams": "every method has its own way of searching; deal has beam_width",
    "max_time": "set max_new_tokens",
    "watermarking_config": "pass a processor that depends on its arguments alone as logits_processor",
    "output_scores": "completions of the output have log-probabilities: return_dict_in_generate=True",
    "output_logits": "completions of the output have log-probabilities: return_dict_in_generate=True",
}
# Of the model's own arguments; all of them follow from the prompt here.
_KNOWN = frozenset({"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"})


@dataclass(frozen=True)
class Stopping:
    """``max_length`` counts prompt, padding and answer; ``eos`` end an answer, the first one first."""

    max_length: int
    eos: Tokens
    stop: tuple[str, ...]


def check(generation_config: Any, model_kwargs: Mapping[str, Any]) -> None:
    """Refuse what the call asks for and no decoding method does.

    Raises:
        UnsupportedError: names the first of them.
    """
    refused = _REFUSED | (_REFUSED_WHERE_SAMPLED if generation_config.do_sample else {})
    for name, neutral in refused.items():
        value = getattr(generation_config, name, None)
        if value not in neutral:
            raise UnsupportedError(
                f"{name} = {value!r:.80} has no meaning under a decoding method of Trivet",
                where="generate",
                hint=_ADVICE.get(name, "leave it out"),
            )
    if generation_config.cache_implementation == "quantized":
        raise UnsupportedError(
            "cache_implementation = 'quantized' is not supported: keys and values are kept as they are",
            where="generate",
            hint="leave it out",
        )
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise UnsupportedError(
            "past_key_values holds tokens already", where="generate", hint="pass the whole prompt without it"
        )
    for name, value in model_kwargs.items():
        if value is not None and name not in _KNOWN:
            raise UnsupportedError(
                f"{name} is not supported: a prompt is its tokens alone",
                where="generate",
                hint="leave it out",
            )


def sampling(generation_config: Any) -> Sampling:
    """Temperature and filters, which count where ``do_sample`` is set."""
    if not generation_config.do_sample:
        return Sampling()

    def given(value: Any, neutral: Any) -> Any:
        return neutral if value is None else value

    return Sampling(
        temperature=float(given(generation_config.temperature, 1.0)),
        top_k=int(given(generation_config.top_k, 0)),
        top_p=float(given(generation_config.top_p, 1.0)),
        min_p=float(given(generation_config.min_p, 0.0)),
    )


def stopping(criteria: Sequence[Any]) -> Stopping:
    """When an answer ends.

    Raises:
        UnsupportedError: a criterion is none of length, end-of-sequence tokens and stop strings.
    """
    lengths: list[int] = []
    eos: dict[int, None] = {}
    stop: list[str] = []
    for criterion in criteria:
        if type(criterion) is MaxLengthCriteria:
            lengths.append(int(criterion.max_length))
        elif type(criterion) is EosTokenCriteria:
            eos |= dict.fromkeys(criterion.eos_token_id.flatten().tolist())
        elif type(criterion) is StopStringCriteria:
            stop += criterion.stop_strings
        else:
            raise UnsupportedError(
                f"the stopping criterion {type(criterion).__name__} is not supported: a method that searches"
                " does not go token by token",
                where="generate",
                hint="set max_new_tokens, eos_token_id or stop_strings",
            )
    if not lengths:
        raise UnsupportedError("no length is given", where="generate", hint="set max_new_tokens")
    return Stopping(min(lengths), tuple(eos), tuple(stop))


def prompts(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> list[tuple[Tokens, Tokens]]:
    """Each row of ``input_ids`` [rows, length] as its padding on the left and its prompt.

    Raises:
        UnsupportedError: a row is empty, is padded elsewhere, or its tokens have other positions.
    """
    found: list[tuple[Tokens, Tokens]] = []
    rows = input_ids.tolist()
    masks = [[1] * input_ids.shape[1]] * len(rows) if attention_mask is None else attention_mask.tolist()
    for index, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        count = sum(1 for one in mask if one)
        if count == 0 or not all(mask[len(row) - count :]):
            raise UnsupportedError(
                f"row {index} of the batch "
                + ("has no tokens" if count == 0 else "has padding elsewhere than on the left"),
                where="generate",
                hint="tokenizer.padding_side = 'left'; inputs_embeds are not supported",
            )
        if position_ids is not None:
            own = position_ids[index if position_ids.shape[0] == len(rows) else 0]
            if own[..., -count:].tolist() != list(range(count)):
                raise UnsupportedError(
                    "position_ids are not 0, 1, 2, … from each prompt's first token",
                    where="generate",
                    hint="leave them out",
                )
        found.append((tuple(row[: len(row) - count]), tuple(row[len(row) - count :])))
    return found
