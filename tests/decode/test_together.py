"""Requests of all decoding methods in one batch, also on a model whose attention slides a window."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from trivet import catalogue
from trivet._validation import validate
from trivet.judges import Verdict
from trivet.models.engine import Completion, Hooks, Request
from trivet.models.names import resolve_model
from trivet.models.operations import Sampling
from trivet.models.torch_engine import TorchEngine

KINDS = {"llama": {}, "mistral": {"sliding_window": 7}}
PROMPTS = ("Hello", "What is the capital of France, and why?", "w " * 40)
NEVER_STOP = Sampling(logit_bias=((2, -1e9),))
SEARCH = {"searches": 4, "least_searches": 2, "candidates": 3, "min_visits": 1}
LETTERS = [{"type": "judge", "judge": "letters"}]
METHODS: dict[str, dict[str, Any]] = {
    "sampling": {},
    "best_of_n": {"n": 3, "judge": "letters"},
    "soft_best_of_n": {"n": 3, "judge": "letters"},
    "deal": {"candidates": 3, "lookahead": 3, "objectives": LETTERS, "heuristic_weight": 5.0},
    "rain": {**SEARCH, "judge": "letters"},
    "eft": {"base": "b", "tuned": {"kind": "t"}, "draft_tokens": 3},
}
GREEDY: dict[str, dict[str, Any]] = {
    "deal": {**METHODS["deal"], "candidates": 1},
    "rain": {**SEARCH, "candidates": 1, "examples": 0},
    "eft": {"base": "b", "tuned": {"kind": "t"}, "beta": 1e-9},  # all three models run
}


class Letters:
    """Scores a text by its share of letters."""

    name = "letters"

    def score(self, chats: Sequence[Any]) -> list[Verdict]:
        texts = [chat[-1]["content"] for chat in chats]
        return [Verdict(sum(map(str.isalpha, text)) / (len(text) + 1)) for text in texts]


@pytest.fixture(scope="module", params=KINDS)
def engine(request: Any, tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchEngine]:
    """A model with two near ones beside it."""
    folder = tiny_model(request.param, **KINDS[request.param])
    beside = {}
    for seed, name in enumerate(("base", "tuned.kind"), 1):
        model = AutoModelForCausalLM.from_pretrained(folder)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("beside") / "model"))
        model.save_pretrained(copy)
        beside[name] = resolve_model(str(copy))
    engine = TorchEngine(resolve_model(str(folder)), auxiliary=beside)
    yield engine
    engine.close()


def make(name: str, prompt: str, settings: dict[str, Any], **options: Any) -> Request:
    method = catalogue.find(f"decode/{name}")
    config = validate(method.config, settings, where=name)
    judges = dict.fromkeys(getattr(config, "judge_specs", {}), Letters())
    if name.endswith("best_of_n"):
        judges = {"judge": Letters()}
    values: dict[str, Any] = {"seed": 1, "max_tokens": 12, **options}
    chat = [{"role": "user", "content": prompt}]
    return Request(chat, lambda context: method.function(config, context, **judges), **values)


def run(engine: TorchEngine, *requests: Request) -> list[Completion]:
    return [handle.result(120) for handle in [engine.submit(request) for request in requests]]


def even_only(tokens: Any, prompt_length: int, logits: torch.Tensor) -> torch.Tensor:
    logits[1::2] = -torch.inf
    return logits


def test_methods_side_by_side_answer_as_each_alone(engine: TorchEngine) -> None:
    requests = [
        make(name, prompt, settings, max_tokens=6 + place, sampling=sampling, hooks=hooks)
        for place, (name, settings) in enumerate(METHODS.items())
        for prompt, sampling, hooks in zip(
            PROMPTS,
            (Sampling(), Sampling(temperature=1.0, top_p=0.95), NEVER_STOP),
            (Hooks(), Hooks(logits=(even_only,)), Hooks()),
        )
    ]
    alone = []
    for request in requests:
        for runner in engine._runners.values():
            runner.tree.clear()
        alone += run(engine, request)
    together = run(engine, *requests)
    for one, other in zip(alone, together, strict=True):
        assert one.continuation.tokens == other.continuation.tokens
        assert (one.text, one.stop_reason) == (other.text, other.stop_reason)
    marked = together[1 :: len(PROMPTS)]
    assert all(token % 2 == 0 for one in marked for token in one.continuation.tokens)


@pytest.mark.parametrize("name", GREEDY)
def test_each_reduces_to_greedy_decoding(engine: TorchEngine, name: str) -> None:
    ours = run(engine, *(make(name, prompt, GREEDY[name], sampling=NEVER_STOP) for prompt in PROMPTS))
    plain = run(engine, *(make("sampling", prompt, {}, sampling=NEVER_STOP) for prompt in PROMPTS))
    assert [one.continuation.tokens for one in ours] == [one.continuation.tokens for one in plain]


def test_speculation_goes_back_where_windows_slide(engine: TorchEngine) -> None:
    settings = METHODS["eft"]
    fast, slow = (
        run(engine, *(make("eft", prompt, settings | {"draft_tokens": k}, sampling=NEVER_STOP, max_tokens=24)
                      for prompt in PROMPTS))
        for k in (3, 0)
    )  # fmt: skip
    assert [one.continuation.tokens for one in fast] == [one.continuation.tokens for one in slow]
    assert any(one.trace[0]["proposed"] > one.trace[0]["accepted"] for one in fast), "some were taken back"


@pytest.mark.parametrize("name", ["best_of_n", "deal", "rain"])
def test_a_judge_sees_an_answer_that_goes_on_as_one_message(engine: TorchEngine, name: str) -> None:
    """The beginning that the request gives is a part of the answer."""
    seen: list[Any] = []

    class Watching(Letters):
        def score(self, chats: Sequence[Any]) -> list[Verdict]:
            seen.extend(chats)
            return super().score(chats)

    method = catalogue.find(f"decode/{name}")
    config = validate(method.config, METHODS[name], where=name)
    key = next(iter(getattr(config, "judge_specs", {})), "judge")
    request = Request(
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "It begins"}],
        lambda context: method.function(config, context, **{key: Watching()}),
        seed=1,
        max_tokens=6,
        continue_final_message=True,
    )
    engine.submit(request).result(timeout=120)
    assert seen and all(
        [message["role"] for message in chat] == ["user", "assistant"]
        and chat[-1]["content"].startswith("It begins")
        for chat in seen
    )
