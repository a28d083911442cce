"""Logits processors of the caller's act under every method, on what they would see in plain ``generate``."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, TemperatureLogitsWarper

from trivet.systems.custom_generate import CustomGenerate

TEXTS = ["What is the capital of France?", "Hello"]
JUDGE = "refusal_string_match"
METHODS: dict[str, dict[str, Any]] = {
    "sampling": {"method": "sampling"},
    "best_of_n": {"method": "best_of_n", "n": 2, "judge": JUDGE},
    "soft_best_of_n": {"method": "soft_best_of_n", "n": 2, "judge": JUDGE},
    "deal": {"method": "deal", "candidates": 3, "objectives": [{"type": "length", "max_words": 4}]},
    "rain": {"method": "rain", "searches": 3, "least_searches": 1, "candidates": 3, "judge": JUDGE},
    "eft": {"method": "eft", "base": "a", "tuned": {"kind": "b"}, "draft_tokens": 2},
}


@pytest.fixture(scope="module")
def inputs(tokenizer: Any) -> dict[str, torch.Tensor]:
    return dict(tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False))


class EvenAfterOdd(LogitsProcessor):
    """After an odd token only even ones, and the other way round; notes what it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append((tuple(input_ids.shape), tuple(scores.shape)))
        parity = torch.arange(scores.shape[-1])[None] % 2
        return scores.masked_fill(parity == input_ids[:, -1:] % 2, -torch.inf)


@pytest.mark.parametrize("name", METHODS)
def test_a_processor_of_the_callers_acts(
    name: str, model: Any, tokenizer: Any, inputs: Any, tiny_model: Any
) -> None:
    others = {
        key: AutoModelForCausalLM.from_pretrained(tiny_model("llama", seed=seed))
        for seed, key in enumerate("ab", 5)
        if name == "eft"
    }
    method = CustomGenerate(METHODS[name], tokenizer=tokenizer, models=others)
    processor = EvenAfterOdd()
    answers = model.generate(
        **inputs,
        custom_generate=method,
        logits_processor=[processor],
        do_sample=True,
        top_k=0,
        max_new_tokens=10,
        eos_token_id=None,
    )
    length = inputs["input_ids"].shape[1]
    parities = answers[:, length - 1 :] % 2
    assert (parities[:, 1:] != parities[:, :-1]).all()
    assert {shape for _, shape in processor.seen} == {(1, 400)}, "one row at a time"
    assert min(shape[1] for shape, _ in processor.seen) == length, "with its padding"


def test_greedy_answers_are_those_of_transformers(model: Any, tokenizer: Any, inputs: Any) -> None:
    """The order among processors counts: a penalty, then the caller's own, never twice."""
    plain = CustomGenerate("sampling", tokenizer=tokenizer)
    shift = 0.9 * torch.randn(400, generator=torch.Generator().manual_seed(1))

    def shifted(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores += shift  # in place, as some do
        return scores * 2

    options = {
        "max_new_tokens": 20,
        "do_sample": False,
        "repetition_penalty": 1.4,
        "logits_processor": [shifted, TemperatureLogitsWarper(0.5)],
    }
    expected = model.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options, custom_generate=plain), expected)
    without = model.generate(**inputs, **options | {"logits_processor": None}, custom_generate=plain)
    assert not torch.equal(without, expected)


def test_filters_are_not_applied_twice(model: Any, tokenizer: Any, inputs: Any) -> None:
    """Temperature twice would be another temperature; equal seeds show that it is not."""
    plain = CustomGenerate("sampling", tokenizer=tokenizer)
    calls = []

    def watched(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        calls.append(scores[0])
        return scores

    options = {
        "max_new_tokens": 6,
        "do_sample": True,
        "temperature": 3.0,
        "top_k": 5,
        "custom_generate": plain,
    }
    answers = model.generate(**inputs, **options)
    watching = model.generate(**inputs, **options, logits_processor=[watched])
    assert torch.equal(answers, watching)
    logits = model(input_ids=inputs["input_ids"][:1]).logits[0, -1]
    assert torch.allclose(calls[0], logits, atol=1e-4), "unfiltered and at temperature 1"
