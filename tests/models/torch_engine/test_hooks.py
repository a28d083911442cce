"""The three hooks: a green-list watermark, a steering vector, a word gate; alone and together."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trivet.models.engine import GateDecision, Hooks, Request
from trivet.models.names import resolve_model
from trivet.models.operations import Extend, Hidden, ProgramContext, Sampling
from trivet.models.torch_engine import TorchEngine

NEVER_STOP = Sampling(temperature=1.0, logit_bias=((2, -1e9),))


def plain(context: ProgramContext) -> Any:
    yield Extend(context.prompt, context.max_tokens, sampling=context.sampling, commit=True)


def request(**settings: Any) -> Request:
    defaults: dict[str, Any] = {"program": plain, "seed": 1, "max_tokens": 60, "sampling": NEVER_STOP}
    return Request([{"role": "user", "content": "Hello"}], **(defaults | settings))


@pytest.fixture(scope="module")
def engine(tiny_model_folder: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)))
    yield engine
    engine.close()


def _green(previous: int, size: int) -> torch.Tensor:
    """Half of the vocabulary, chosen by the previous token (Kirchenbauer et al., arXiv 2301.10226)."""
    generator = torch.Generator().manual_seed(previous)
    return torch.randperm(size, generator=generator)[: size // 2]


class Watermark:
    def __call__(self, tokens: Any, prompt_length: int, logits: torch.Tensor) -> torch.Tensor:
        assert len(tokens) >= prompt_length
        logits[_green(tokens[-1], len(logits))] += 12.0
        return logits


def _green_share(engine: TorchEngine, tokens: tuple[int, ...]) -> float:
    size = engine._own.model.get_input_embeddings().weight.shape[0]
    return float(np.mean([b in _green(a, size) for a, b in itertools.pairwise(tokens)]))


def test_a_watermark_marks_its_own_request_only(engine: TorchEngine) -> None:
    marked = engine.submit(request(hooks=Hooks(logits=(Watermark(),))))
    free = engine.submit(request())
    assert _green_share(engine, marked.result(60).continuation.tokens) > 0.9
    assert _green_share(engine, free.result(60).continuation.tokens) < 0.8


class Steer:
    """Adds a vector after the first block."""

    layers = (1,)

    def __init__(self, size: float) -> None:
        self.size = size
        self.seen: list[tuple[int, int]] = []

    def __call__(self, layer: int, position: int, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.append((position, len(hidden)))
        return hidden + self.size * torch.linspace(-1, 1, hidden.shape[1])


def test_steering_edits_its_own_request_only(engine: TorchEngine) -> None:
    plain_text = engine.submit(request()).result(60).text
    steer = Steer(5.0)
    steered = engine.submit(request(hooks=Hooks(activations=(steer,))))
    others = [engine.submit(request()) for _ in range(3)]
    assert [other.result(60).text for other in others] == [plain_text] * 3
    assert steered.result(60).text != plain_text
    assert engine.submit(request()).result(60).text == plain_text  # and left nothing in the KV tree
    # Every position was seen once, in order.
    places = [position + offset for position, count in steer.seen for offset in range(count)]
    assert places == list(range(len(places)))
    assert engine.submit(request(hooks=Hooks(activations=(Steer(0.0),)))).result(60).text == plain_text


def test_hidden_reads_what_the_edit_left(engine: TorchEngine) -> None:
    found: list[Any] = []

    def read(context: ProgramContext) -> Any:
        found.append((yield Hidden(context.prompt, (1,))))

    engine.submit(request(program=read)).result(60)
    engine.submit(request(program=read, hooks=Hooks(activations=(Steer(2.0),)))).result(60)
    np.testing.assert_allclose(
        found[1][1] - found[0][1], 2.0 * np.linspace(-1, 1, found[0][1].shape[1])[None], atol=1e-4
    )


class WordGate:
    """Shows whole words only, and ends the answer at a forbidden character."""

    def __init__(self, forbidden: str) -> None:
        self.forbidden = forbidden

    def __call__(self, chat: Any, text: str, final: bool) -> GateDecision:
        place = text.find(self.forbidden)
        if place >= 0:
            return GateDecision(release=place, stop=True, replacement="[stopped]")
        return GateDecision(release=len(text) if final else max(text.rfind(" "), 0))


def test_a_gate_shows_nothing_it_has_not_passed(engine: TorchEngine) -> None:
    whole = engine.submit(request()).result(60).text
    forbidden = whole[len(whole) // 2]
    before = whole[: whole.index(forbidden)]
    pieces: list[str] = []
    answer = engine.submit(request(hooks=Hooks(gates=(WordGate(forbidden),)), on_text=pieces.append)).result(
        60
    )
    assert answer.stop_reason == "blocked"
    assert answer.text == before + "[stopped]" == "".join(pieces)
    assert answer.usage.completion_tokens < 60  # the slot was freed when the gate closed


def test_a_gate_that_raises_blocks(engine: TorchEngine) -> None:
    def broken(chat: Any, text: str, final: bool) -> GateDecision:
        raise RuntimeError("a mistake in a gate")

    answer = engine.submit(request(hooks=Hooks(gates=(broken,)))).result(60)
    assert (answer.text, answer.stop_reason) == ("", "blocked")


def test_all_hooks_together(engine: TorchEngine) -> None:
    hooks = Hooks(logits=(Watermark(),), activations=(Steer(0.5),), gates=(WordGate("\x00never"),))
    answer = engine.submit(request(hooks=hooks)).result(60)
    assert _green_share(engine, answer.continuation.tokens) > 0.9
    assert answer.stop_reason == "length"


@pytest.mark.parametrize("kind", ["logits", "activations", "text"])
def test_a_hook_that_raises_fails_its_own_request(engine: TorchEngine, kind: str) -> None:
    class Broken:
        layers = (2,)

        def __call__(self, *arguments: Any) -> Any:
            raise RuntimeError("a mistake in a hook")

    settings: dict[str, Any] = {
        "logits": {"hooks": Hooks(logits=(Broken(),))},
        "activations": {"hooks": Hooks(activations=(Broken(),))},
        "text": {"on_text": Broken()},
    }[kind]
    bad, good = engine.submit(request(**settings)), engine.submit(request())
    with pytest.raises(RuntimeError, match="a mistake"):
        bad.result(60)
    assert good.result(60).text


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("logits", lambda values: values[:-1], "gave 399 logits, not 400"),
        ("logits", lambda values: values.sum()[None], "gave 1 logits, not 400"),
        ("logits", lambda values: values * float("nan"), "not numbers"),
        ("logits", lambda values: values - float("inf"), "forbids every token"),
        ("activations", lambda values: values[:, :-1], "an activation hook gave"),
    ],
)
def test_what_a_hook_gives_is_checked(engine: TorchEngine, kind: str, changed: Any, said: str) -> None:
    class Strange:
        layers = (1,)

        def __call__(self, *arguments: Any) -> Any:
            return changed(arguments[2])

    hooks = Hooks(logits=(Strange(),)) if kind == "logits" else Hooks(activations=(Strange(),))
    good, bad = engine.submit(request()), engine.submit(request(hooks=hooks))
    with pytest.raises(ValueError, match=said):
        bad.result(60)
    assert good.result(60).stop_reason == "length"
