"""Weights that replace those of a running engine give the answers of an engine that was opened on them."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import make_tiny_model
from tests.models.torch_engine.test_engine import request

from trivet.errors import EngineError, ModelError
from trivet.models.engine import Engine
from trivet.models.engines import get_engine
from trivet.models.names import resolve_model
from trivet.models.torch_engine import TorchEngine

QUESTIONS = [f"Say something about the number {number}." for number in range(4)]
KINDS = [
    ("llama", {"tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("gemma2", {"head_dim": 8, "sliding_window": 9, "query_pre_attn_scalar": 8}),
    ("gpt2", {}),
]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def answers(engine: Engine) -> list[str]:
    handles = [engine.submit(request(question)) for question in QUESTIONS]
    return [handle.result(60).text for handle in handles]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_tiny_model(tmp_path / "one", seed=1), make_tiny_model(tmp_path / "two", seed=2)


@pytest.fixture
def engine(pair: tuple[Path, Path]) -> Iterator[TorchEngine]:
    made = TorchEngine(resolve_model(str(pair[0])), replaceable=True)
    yield made
    made.close()


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_the_answers_are_those_of_the_new_weights(tmp_path, kind, settings):
    one, two = (make_tiny_model(tmp_path / str(seed), kind, seed, **settings) for seed in (1, 2))
    fresh = TorchEngine(resolve_model(str(two)))
    expected = answers(fresh)
    fresh.close()
    engine = TorchEngine(resolve_model(str(one)), replaceable=True)
    before = answers(engine)  # fills the tree of prefixes with keys and values of the first weights
    engine.load_weights(tensors_of(two).items(), "new")
    assert answers(engine) == expected != before
    engine.load_weights(tensors_of(one).items(), "old")
    assert answers(engine) == before
    engine.close()


def test_names_without_that_of_the_decoder_and_other_types_are_taken(tmp_path):
    one, two = (make_tiny_model(tmp_path / str(seed), "gpt2", seed) for seed in (1, 2))
    rounded = {name: value.to(torch.bfloat16) for name, value in tensors_of(two).items()}
    engine = TorchEngine(resolve_model(str(one)), replaceable=True)
    engine.load_weights(rounded.items(), "new")
    expected = answers(engine)
    bare = {name.removeprefix("transformer."): value for name, value in rounded.items()}
    table = {"h.0.attn.bias": torch.ones(1, 1, 8, 8)}  # the hub's GPT-2 holds it; the model computes it
    engine.load_weights({**bare, **table}.items(), "the same, otherwise named")
    assert answers(engine) == expected
    engine.close()


def test_identity_and_description_follow_the_weights(engine, pair):
    seen = {engine.identity}
    for identity in ("a" * 64, "b" * 64):
        engine.load_weights(tensors_of(pair[1]).items(), identity)
        assert engine.identity not in seen and engine.description["weights"] == identity
        seen.add(engine.identity)
    engine.load_weights(tensors_of(pair[1]).items(), "a" * 64)
    assert engine.identity in seen


def test_weights_that_do_not_fit_are_refused_and_nothing_is_answered_until_whole_ones_come(engine, pair):
    whole = tensors_of(pair[1])
    lacking = {name: value for name, value in whole.items() if name != "model.norm.weight"}
    strange = {**whole, "model.layers.7.mlp.up_proj.weight": torch.ones(2, 2)}
    misshapen = {**whole, "model.layers.0.mlp.up_proj.weight": torch.ones(2, 2)}
    for weights, message in (
        (lacking, "model.norm.weight"),
        (strange, "no tensor model.layers.7"),
        (misshapen, r"\[2, 2\], not \[64, 32\]"),
    ):
        with pytest.raises(ModelError, match=message):
            engine.load_weights(weights.items(), "new")
        with pytest.raises(EngineError, match="replaced in whole"):
            answers(engine)
    engine.load_weights(whole.items(), "new")
    assert all(isinstance(text, str) for text in answers(engine))


def test_what_the_tensors_raise_is_raised(engine):
    def broken():
        yield "model.norm.weight", torch.ones(32)
        raise ModelError("the file has become shorter")

    with pytest.raises(ModelError, match="shorter"):
        engine.load_weights(broken(), "new")


def test_it_is_refused_while_requests_run(engine, pair):
    started = threading.Event()

    def slowly(text):
        started.set()
        time.sleep(0.1)

    handle = engine.submit(request("Hello", on_text=slowly))
    assert started.wait(30)
    with pytest.raises(EngineError, match="requests are under way"):
        engine.load_weights(tensors_of(pair[1]).items(), "new")
    assert handle.result(60).text
    engine.load_weights(tensors_of(pair[1]).items(), "new")


def test_a_request_cannot_replace_the_weights_under_itself(engine, pair):
    def load(text):
        engine.load_weights(tensors_of(pair[1]).items(), "new")

    with pytest.raises(EngineError, match="under way"):
        engine.submit(request("Hello", on_text=load)).result(60)


def test_shared_and_closed_engines_are_refused(engine, pair):
    shared = get_engine(str(pair[0]))
    with pytest.raises(EngineError, match="share this engine"):
        shared.load_weights(tensors_of(pair[1]).items(), "new")
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.load_weights(tensors_of(pair[1]).items(), "new")
