"""Every field of Inspect's ``GenerateConfig`` is honoured, Inspect's own, or refused by name."""

from typing import Any

import pytest
from inspect_ai.model import GenerateConfig, ResponseSchema
from inspect_ai.util import JSONSchema

from trivet.errors import UnsupportedError
from trivet.systems.inspect_config import HONOURED, INSPECT_OWN, SAMPLING, read_config
from trivet.systems.spec import SamplingSpec

REFUSED: dict[str, Any] = {
    "best_of": 3,
    "prompt_logprobs": 1,
    "fallback_models": ["other"],
    "verbosity": "low",
    "effort": "low",
    "reasoning_effort": "high",
    "reasoning_mode": "standard",
    "reasoning_tokens": 100,
    "reasoning_summary": "auto",
    "response_schema": ResponseSchema(name="r", json_schema=JSONSchema(type="object")),
    "extra_headers": {"x": "y"},
    "modalities": ["image"],
}


def test_every_field_of_inspect_is_sorted_into_one_class() -> None:
    fields = set(GenerateConfig.model_fields)
    assert fields == INSPECT_OWN | HONOURED | set(REFUSED)
    assert not INSPECT_OWN & HONOURED and not (INSPECT_OWN | HONOURED) & set(REFUSED)
    assert set(SamplingSpec.model_fields) >= SAMPLING


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"GenerateConfig\.{name}\b"):
        read_config(GenerateConfig(**{name: REFUSED[name]}))


def test_a_field_that_a_later_inspect_adds_is_refused_until_it_is_known() -> None:
    class Later(GenerateConfig):
        brand_new: int | None = None

    with pytest.raises(UnsupportedError, match=r"GenerateConfig\.brand_new"):
        read_config(Later.model_construct(**GenerateConfig().model_dump(), brand_new=1))


def test_honoured_fields_arrive() -> None:
    options = read_config(
        GenerateConfig(
            max_tokens=9, temperature=0.3, top_p=0.8, top_k=5, frequency_penalty=0.1, presence_penalty=0.2,
            logit_bias={3: 1.5}, stop_seqs=["X"], seed=4, num_choices=2, logprobs=True, top_logprobs=3,
            parallel_tool_calls=False, extra_body={"min_p": 0.1, "repetition_penalty": 1.2},
        )
    )  # fmt: skip
    assert options.sampling == {
        "temperature": 0.3, "top_p": 0.8, "top_k": 5, "frequency_penalty": 0.1, "presence_penalty": 0.2,
        "logit_bias": {3: 1.5}, "min_p": 0.1, "repetition_penalty": 1.2,
    }  # fmt: skip
    assert (options.max_tokens, options.stop, options.seed, options.choices) == (9, ("X",), 4, 2)
    assert (options.logprobs, options.top_logprobs, options.one_tool_call) == (True, 3, True)


def test_nothing_given_leaves_everything_to_the_system() -> None:
    options = read_config(GenerateConfig(max_connections=8, timeout=3, cache=False))
    assert options.max_tokens is None
    assert options.sampling == {}
    assert options.seed is None
    assert options.choices == 1


def test_unknown_extra_settings_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="did you mean 'min_p'"):
        read_config(GenerateConfig(extra_body={"min_pp": 1}))
    with pytest.raises(UnsupportedError, match="cache_prompt"):
        read_config(GenerateConfig(cache_prompt=False))
