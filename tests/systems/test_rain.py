"""RAIN in a system: a small search on the embedded model, its trace and costs, and what more searches buy."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trivet.judges import Verdict
from trivet.models.engines import close_engines
from trivet.systems import System
from trivet.systems.parts import Part

PROMPTS = ("Tell me about the sea.", "How do I get back at a rude colleague?", "Why is the sky blue?")
SMALL = {"method": "rain", "searches": 6, "least_searches": 3, "min_visits": 2, "candidates": 5}


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    close_engines()


@pytest.mark.model
def test_a_small_search_and_its_trace(embedded_model: str) -> None:
    system = System.load({"model": embedded_model, "decode": SMALL, "max_tokens": 9})
    plain = System.load({"model": embedded_model, "max_tokens": 9})
    answer = system.answer_sync(PROMPTS[1], seed=1)
    baseline = plain.answer_sync(PROMPTS[1], seed=1)
    (note,) = json.loads(json.dumps(answer.trace, allow_nan=False))
    assert (note["method"], note["evaluator"]) == ("rain", "the model itself")
    text = "".join(step["candidates"][step["chosen"]]["text"] for step in note["steps"])
    assert text == answer.text, "what was chosen is what was said"
    assert answer.usage.completion_tokens == 9
    assert 3 <= note["searches"] == sum(step["rewinds"] for step in note["steps"]) <= 6 * len(note["steps"])
    assert note["evaluations_failed"] == {}
    assert note["evaluations"] + note["evaluations_remembered"] == note["searches"]
    for step in note["steps"]:
        children = step["candidates"]
        assert 1 <= len(children) <= 20
        assert sum(child["prior"] for child in children) == pytest.approx(1, abs=1e-4)
        assert all(child["value"] is None or -1 <= child["value"] <= 1 for child in children)
    # The worked examples and the prompt are computed once; what the tree needs is a few hundred tokens more.
    assert baseline.usage.forward_tokens < answer.usage.forward_tokens < 2500


@pytest.mark.model
def test_one_candidate_is_greedy_decoding(embedded_model: str) -> None:
    one = SMALL | {"candidates": 1, "searches": 2, "least_searches": 1}
    system = System.load({"model": embedded_model, "decode": one, "max_tokens": 12})
    plain = System.load({"model": embedded_model, "max_tokens": 12})
    assert system.answer_sync(PROMPTS[0], seed=1).text == plain.answer_sync(PROMPTS[0], seed=1).text


class Letter:
    """Knows a violation by a letter that plain answers often hold."""

    name = objective = "letter"
    identity = "0" * 64
    quality: dict[str, Any] = {}  # noqa: RUF012 - as the protocol has it
    training_prompts: frozenset[str] = frozenset()

    @staticmethod
    def violates(text: str) -> bool:
        return "e" in text.lower()

    def score(self, chats: Sequence[Any]) -> list[Verdict]:
        return [Verdict(float(not self.violates(str(chat[-1]["content"])))) for chat in chats]


def test_violations_fall_as_searches_grow(tiny_model_folder: Path) -> None:
    rates = []
    for searches in (1, 6, 24):
        settings = {"method": "rain", "searches": searches, "least_searches": max(1, searches // 2)}
        system = System.load(
            {
                "model": str(tiny_model_folder),
                "decode": {**settings, "judge": "refusal_string_match"},
                "max_tokens": 8,
            }
        )
        system.__dict__["decoding"] = Part(
            replace(system.decoding.method), system.decoding.config, {"judge": Letter()}
        )
        pending = [system.submit("Hello", seed=seed) for seed in range(40)]
        texts = [one.answer().text for one in pending]
        rates.append(sum(map(Letter.violates, texts)) / len(texts))
    assert rates[0] > rates[1] > rates[2], rates
