"""What a call of ``generate`` asks for is honoured as transformers honours it, or refused by name."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.generation import (
    EosTokenCriteria,
    MaxLengthCriteria,
    StoppingCriteria,
    StopStringCriteria,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)

from trivet.errors import ConfigError, UnsupportedError
from trivet.systems.custom_generate import CustomGenerate

TEXTS = ["What is the capital of France?", "Hello", "Take one away and it falls over"]


@pytest.fixture(scope="module")
def inputs(tokenizer: Any) -> dict[str, torch.Tensor]:
    return dict(tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False))


@pytest.fixture(scope="module")
def plain(tokenizer: Any) -> CustomGenerate:
    return CustomGenerate("sampling", tokenizer=tokenizer)


HONOURED: list[dict[str, Any]] = [
    {"max_length": 20},
    {"max_new_tokens": 5},
    {"max_new_tokens": 16, "eos_token_id": None},
    {"max_new_tokens": 16, "eos_token_id": list(range(100, 300)), "pad_token_id": 7},
    {"max_new_tokens": 16, "eos_token_id": list(range(100, 300)), "min_new_tokens": 6},
    {"max_new_tokens": 16, "eos_token_id": list(range(100, 300)), "min_length": 14},
    {"max_new_tokens": 16, "repetition_penalty": 1.7},
    {"max_new_tokens": 16, "no_repeat_ngram_size": 1},
    {"max_new_tokens": 16, "suppress_tokens": list(range(0, 400, 2))},
    {"max_new_tokens": 16, "begin_suppress_tokens": list(range(0, 400, 2))},
    {"max_new_tokens": 16, "sequence_bias": [[[45], 60.0], [[45, 46], 90.0]]},
    {"max_new_tokens": 16, "bad_words_ids": [[token] for token in range(200, 400)]},
    {"max_new_tokens": 8, "forced_eos_token_id": 9, "eos_token_id": 9},
    {"max_new_tokens": 16, "exponential_decay_length_penalty": (3, 4.0), "eos_token_id": 9},
    {"max_new_tokens": 16, "remove_invalid_values": True, "renormalize_logits": True},
    {"max_new_tokens": 16, "stopping_criteria": [MaxLengthCriteria(15)]},
    {"max_new_tokens": 16, "stopping_criteria": [EosTokenCriteria(list(range(100, 250)))]},
    {"max_new_tokens": 16, "cache_implementation": "static"},
    {"max_new_tokens": 16, "prefix_allowed_tokens_fn": lambda row, _: range(40 + 50 * row, 80 + 50 * row)},
]  # fmt: skip


@pytest.mark.parametrize("options", HONOURED, ids=lambda options: "-".join(options))
def test_greedy_answers_are_those_of_transformers(
    options: dict[str, Any], model: Any, inputs: Any, plain: CustomGenerate
) -> None:
    options = {"do_sample": False, **options}
    expected = model.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options, custom_generate=plain), expected)


def test_stop_strings_are_a_criterion(model: Any, tokenizer: Any, inputs: Any, plain: CustomGenerate) -> None:
    """``generate`` itself asks for a tokenizer with ``stop_strings`` and hands it to no custom generate."""
    # Text inside a special token would count in transformers, and does not here.
    options = {"do_sample": False, "max_new_tokens": 16, "suppress_tokens": [0, 1]}
    criteria = [StopStringCriteria(tokenizer, ["a", "e", "t"])]
    expected = model.generate(**inputs, **options, stop_strings=["a", "e", "t"], tokenizer=tokenizer)
    answers = model.generate(**inputs, **options, stopping_criteria=criteria, custom_generate=plain)
    assert torch.equal(answers, expected)
    assert answers.shape[1] < inputs["input_ids"].shape[1] + 16


def test_temperature_and_filters_reach_the_draw(model: Any, inputs: Any, plain: CustomGenerate) -> None:
    """Against the distribution of the first token that plain transformers' processors leave."""
    options = {"do_sample": True, "temperature": 1.5, "top_k": 6, "top_p": 0.9, "min_p": 0.05}
    one = {name: value[:1] for name, value in inputs.items()}
    scores = model.generate(
        **one, **options, max_new_tokens=1, output_scores=True, return_dict_in_generate=True
    ).scores[0][0]
    expected = scores.softmax(-1)
    answers = model.generate(
        **one, **options, max_new_tokens=1, num_return_sequences=1500, custom_generate=plain
    )
    counts = torch.bincount(answers[:, -1], minlength=len(expected)).double()
    assert not counts[expected == 0].any()
    kept = expected > 0
    assert 1 < kept.sum() <= 6
    statistic = ((counts[kept] - 1500 * expected[kept]) ** 2 / (1500 * expected[kept])).sum()
    assert float(statistic) < 25, "chi-square with at most 5 degrees of freedom, p > 0.0001"


class AfterAWhile(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **others: Any) -> torch.Tensor:
        return torch.ones(len(input_ids), dtype=torch.bool)


REFUSED: dict[str, dict[str, Any]] = {
    "num_beams": {"num_beams": 2},
    "max_time": {"max_time": 3.0},
    "guidance_scale": {"guidance_scale": 2.0},
    "watermarking_config": {"watermarking_config": WatermarkingConfig()},
    "typical_p": {"typical_p": 0.5},
    "epsilon_cutoff": {"epsilon_cutoff": 0.01},
    "eta_cutoff": {"eta_cutoff": 0.01},
    "top_h": {"top_h": 0.5},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.5},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 2},
    "output_scores": {"output_scores": True, "return_dict_in_generate": True},
    "output_logits": {"output_logits": True, "return_dict_in_generate": True},
    "AfterAWhile": {"stopping_criteria": [AfterAWhile()]},
    "SynthIDTextWatermarkLogitsProcessor": {
        "logits_processor": [
            SynthIDTextWatermarkingConfig(ngram_len=3, keys=[1, 2, 3]).construct_processor(400, "cpu")
        ]
    },
    "past_key_values": {"past_key_values": "filled"},
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_honoured_is_refused_by_name(
    name: str, model: Any, inputs: Any, plain: CustomGenerate
) -> None:
    options = dict(REFUSED[name])
    if name == "past_key_values":
        options[name] = DynamicCache(config=model.config)
        model(input_ids=inputs["input_ids"][:, :3], past_key_values=options[name])
    with pytest.raises(UnsupportedError, match=name) as caught:
        model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=4, custom_generate=plain, **options)
    assert "\n" not in caught.value.message
    assert model.config._attn_implementation == "sdpa"


def test_rows_are_tokens_with_padding_on_the_left(model: Any, inputs: Any, plain: CustomGenerate) -> None:
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for wrong, said in ((mask.flip(1), "elsewhere than on the left"), (mask * 0, "has no tokens")):
        with pytest.raises(UnsupportedError, match=said):
            model.generate(input_ids=ids, attention_mask=wrong, max_new_tokens=2, custom_generate=plain)
    places = torch.arange(ids.shape[1])[None].expand(len(ids), -1)
    with pytest.raises(UnsupportedError, match="position_ids"):
        model.generate(**inputs, position_ids=places, max_new_tokens=2, custom_generate=plain)
    embedded = model.get_input_embeddings()(ids[:1])
    with pytest.raises(UnsupportedError, match="inputs_embeds"):
        model.generate(inputs_embeds=embedded, max_new_tokens=2, custom_generate=plain)


def test_answers_of_different_lengths_need_a_filler(
    model: Any, tokenizer: Any, inputs: Any, plain: CustomGenerate
) -> None:
    config = model.generation_config
    kept = config.eos_token_id, config.pad_token_id
    config.eos_token_id = config.pad_token_id = None
    try:
        with pytest.raises(ConfigError, match="set pad_token_id"):
            model.generate(
                **inputs,
                max_new_tokens=16,
                do_sample=False,
                stopping_criteria=[StopStringCriteria(tokenizer, ["a", "e", "t"])],
                custom_generate=plain,
            )
    finally:
        config.eos_token_id, config.pad_token_id = kept
