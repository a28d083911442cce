"""Plain sampling asks for one committed continuation and nothing else."""

from typing import Any

import numpy as np
import pytest

from trivet import catalogue
from trivet.decode.sampling import Config, program
from trivet.models.operations import Extend, ProgramContext, Sampling


def context(**values: Any) -> ProgramContext:
    defaults: dict[str, Any] = {
        "prompt": (5, 6),
        "chat": [{"role": "user", "content": "Hello"}],
        "max_tokens": 7,
        "sampling": Sampling(temperature=0.5, top_k=3),
        "stop": ("\n",),
        "top_logprobs": 2,
        "random": np.random.default_rng(0),
        "encode": lambda text: tuple(text.encode()),
        "decode": lambda tokens: bytes(tokens).decode(),
        "render": lambda chat: (),
    }
    return ProgramContext(**(defaults | values))


def test_the_request_is_one_committed_extension_of_its_prompt() -> None:
    running = program(Config(), context())
    operation = next(running)
    assert operation == Extend(
        prefix=(5, 6),
        max_tokens=7,
        sampling=Sampling(temperature=0.5, top_k=3),
        stop=("\n",),
        top_logprobs=2,
        commit=True,
    )
    with pytest.raises(StopIteration):
        running.send([None])


def test_it_is_in_the_catalogue_and_has_nothing_to_set() -> None:
    entry = catalogue.find("decode/sampling")
    assert entry.config is Config
    assert not Config.model_fields
