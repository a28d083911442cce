"""RAIN in the engine against RAIN with plain transformers, written apart: equal searches, equal choices."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trivet.decode.rain import Config
from trivet.models.engine import Request
from trivet.models.names import resolve_model
from trivet.models.torch_engine import TorchEngine

PROMPTS = ("Hello", "What is the capital of France?", "Say yes")


@pytest.fixture(scope="module")
def engine(tiny_model_folder: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)))
    yield engine
    engine.close()


@pytest.mark.parametrize("seed", range(6))
def test_equal_visits_and_choices_at_the_least_cost(
    engine: TorchEngine, tiny_model_folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks.decode_rain import Watched, same
    from benchmarks.peers.rain import Official

    settings: dict[str, Any] = {
        "searches": 6 + 2 * seed, "least_searches": 4, "examples": 0, "candidates": 5, "max_children": 5,
        # A threshold at which siblings of this model do learn from one another.
        "similarity_threshold": 0.6 if seed % 2 else 0.95,
    }  # fmt: skip
    config = Config(**settings)
    chat = [{"role": "user", "content": PROMPTS[seed % 3]}]
    watched = Watched(config)
    engine._runner.tree.clear()
    done = engine.submit(Request(chat, watched, seed=seed, max_tokens=20)).result(120)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()
    official = Official(model, AutoTokenizer.from_pretrained(tiny_model_folder), config)
    with torch.inference_mode():
        steps = official.answer(chat, seed, 20)
    assert same(steps, watched.steps, done.continuation.tokens)
    for theirs, ours in zip(steps, watched.steps):
        visits = sorted(round(child["visits"], 2) for child in ours["candidates"])
        assert visits == pytest.approx(sorted(round(n, 2) for _, n, _ in theirs["visits"]), abs=0.02)
    if seed in (3, 5):
        fractions = [child["visits"] % 1 for step in watched.steps for child in step["candidates"]]
        assert any(fractions), "some sibling learnt from another"
    assert done.usage.forward_tokens <= 1.3 * watched.needed.count
