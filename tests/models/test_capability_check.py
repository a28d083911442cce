"""Requests that an engine cannot serve are refused, naming what they ask for."""

import pytest

from trivet.errors import UnsupportedError
from trivet.models.capability_check import check_request
from trivet.models.engine import Capabilities, GateDecision, Hooks, Request
from trivet.models.operations import Sampling

NOTHING = Capabilities(operations=frozenset(), hooks=frozenset(), sampling=frozenset(), tools=False)


def request(**settings):
    chat = settings.pop("chat", [{"role": "user", "content": "?"}])
    return Request(chat=chat, program=lambda context: iter(()), seed=0, max_tokens=1, **settings)


def test_a_plain_request_passes():
    check_request(request(), NOTHING)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sampling": Sampling(top_k=5)}, "top_k"),
        ({"sampling": Sampling(temperature=0.5)}, "temperature"),
        ({"top_logprobs": 3}, "alternatives"),
        ({"tools": ({"type": "function"},)}, "tools"),
        ({"hooks": Hooks(gates=(lambda chat, text, final: GateDecision(0),))}, "gate"),
        ({"hooks": Hooks(logits=(lambda tokens, prompt_length, logits: logits,))}, "logits"),
        ({"chat": [{"role": "user", "content": [{"type": "image_url"}]}]}, "images"),
    ],
)
def test_what_is_missing_is_named(settings, named):
    with pytest.raises(UnsupportedError, match=named):
        check_request(request(**settings), NOTHING)


def test_what_is_declared_passes():
    able = Capabilities(
        operations=frozenset(),
        hooks=frozenset({"gate", "logits"}),
        sampling=frozenset({"top_k"}),
        top_logprobs=5,
    )
    gate = Hooks(gates=(lambda chat, text, final: GateDecision(0),))
    check_request(request(sampling=Sampling(top_k=5), top_logprobs=5, hooks=gate), able)


def test_text_parts_are_not_images():
    check_request(request(chat=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]), NOTHING)
