"""Models that somebody else owns: what they give, and that they are given back whatever happens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trivet.errors import ContextLengthError, EngineError, UnsupportedError
from trivet.models.engine import Request
from trivet.models.operations import Extend, ProgramContext
from trivet.models.torch_engine.borrowed import BorrowedModels
from trivet.models.torch_engine.loading import LoadedModel, in_memory


@pytest.fixture
def loaded(tiny_model_folder: Path) -> LoadedModel:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder).train()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    return in_memory(model, tokenizer, eos=frozenset({2, 5}), where="mine")


def is_as_before(model: Any) -> bool:
    implementations = {
        module.config._attn_implementation for module in model.modules() if hasattr(module, "config")
    }
    return model.training and implementations == {"sdpa"}


def request(**settings: Any) -> Request:
    def program(context: ProgramContext) -> Any:
        assert context.prompt == (40, 41, 42)
        yield Extend(context.prompt, context.max_tokens, sampling=context.sampling, commit=True)

    return Request(**{"chat": [], "program": program, "seed": 0, "max_tokens": 40} | settings)


def test_a_request_continues_its_tokens(loaded: LoadedModel) -> None:
    with BorrowedModels({"": loaded}) as engine:
        assert not loaded.model.training
        answer = engine.submit(request(), (40, 41, 42)).result(60).continuation
        with pytest.raises(ContextLengthError, match="512"):
            engine.submit(request(), (40,) * 512)
        with pytest.raises(EngineError, match="mine: the model is generating already"):
            BorrowedModels({"": loaded}).__enter__()
    assert is_as_before(loaded.model)
    expected = loaded.model.eval().generate(
        torch.tensor([[40, 41, 42]]), max_new_tokens=40, do_sample=False, eos_token_id=[2, 5]
    )[0, 3:]
    end = () if answer.end_token is None else (answer.end_token,)
    assert (*answer.tokens, *end) == tuple(expected.tolist())
    with pytest.raises(EngineError, match="closed"):
        engine.submit(request(), (40, 41, 42))


def test_which_token_ended_an_answer_is_told(loaded: LoadedModel) -> None:
    for token in (2, 5):
        bias = request().sampling.__class__(logit_bias=((token, 1e6),))
        with BorrowedModels({"": loaded}) as engine:
            found = engine.submit(request(sampling=bias), (40, 41, 42)).result(60).continuation
        assert (found.stop_reason, found.end_token) == ("stop", token)


def test_a_model_that_cannot_be_run_is_given_back(loaded: LoadedModel, tiny_model: Any) -> None:
    folder = tiny_model("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    other = in_memory(
        AutoModelForCausalLM.from_pretrained(folder).train(), loaded.tokenizer, eos=loaded.eos, where="other"
    )
    other.key = "beside"
    with pytest.raises(UnsupportedError, match="position embeddings"):
        BorrowedModels({"": loaded, "beside": other}).__enter__()
    assert is_as_before(loaded.model)
    assert is_as_before(other.model)
    with BorrowedModels({"": loaded}):
        pass
