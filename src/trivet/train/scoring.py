"""A causal language model that gives the log-probabilities of answers in place of logits.

``score_answers(model)`` lets ``model(...)`` take a batch of ``trivet.train.batches``: it then returns the
log-probability of each answer token [tokens], by way of the wrappers of PEFT and accelerate. Calls without
``answer_index`` are untouched. With ``with_states`` the hidden states that they were predicted from
[tokens, width] come beside them, for a head of values.
"""

import types
from collections.abc import Callable
from typing import Any

import torch

from trivet.errors import UnsupportedError
from trivet.train import shared_prompts
from trivet.train.answer_logprobs import answer_logprobs
from trivet.train.shared_prompts import Layout

TOLERANCE = 2e-3
"""Largest difference of a log-probability, in nats, at which packed and separate sequences count as equal."""

# Settings by which a model changes its logits after the output layer.
_AFTER_OUTPUT = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}


def causal_model(model: Any) -> Any:
    """The transformers model inside PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def score_answers(model: Any) -> None:
    """Let the model score answers; see the module.

    Raises:
        UnsupportedError: its logits are not a linear function of its last hidden states, or an adapter sits
            on its output layer.
    """
    inner = causal_model(model)
    output = inner.get_output_embeddings()
    if not isinstance(output, torch.nn.Linear):
        raise UnsupportedError(
            f"the output layer is a {type(output).__name__}, not a plain linear one",
            hint="leave the output layer (lm_head) out of the adapter's target_modules",
        )
    config = inner.config.get_text_config()
    for name, neutral in _AFTER_OUTPUT.items():
        if getattr(config, name, neutral) not in (None, neutral):
            raise UnsupportedError(f"the model changes its logits by {name}, which training here does not")
    decoder = getattr(inner, inner.base_model_prefix)
    plain = inner.forward

    def forward(
        self: Any,
        *arguments: Any,
        answer_index: torch.Tensor | None = None,
        answer_tokens: torch.Tensor | None = None,
        with_states: bool = False,
        **inputs: Any,
    ) -> Any:
        if answer_index is None:
            return plain(*arguments, **inputs)
        hidden = decoder(*arguments, use_cache=False, **inputs).last_hidden_state
        hidden = hidden.flatten(0, 1)[answer_index]
        assert answer_tokens is not None
        logprobs = answer_logprobs(hidden, output.weight, output.bias, answer_tokens)
        return (logprobs, hidden) if with_states else logprobs

    inner.forward = types.MethodType(forward, inner)


def packs(model: Any, vocabulary: int) -> bool:
    """Whether the model computes the same for answers that share their prompt as for separate sequences.

    It is tried on made-up tokens: attention that is not replaced, convolutions and recurrent layers give
    something else. Where it does, the model is left with that attention; where it does not, as it was.
    """
    inner = causal_model(model)
    before = inner.config._attn_implementation
    shared_prompts.register()
    device = inner.get_input_embeddings().weight.device
    numbers = torch.Generator().manual_seed(0)
    prompt, first, second = (torch.randint(vocabulary, (n,), generator=numbers) for n in (9, 7, 8))
    training = model.training
    model.eval()
    try:
        expected = [_last_hidden(inner, torch.cat([prompt, answer]), device) for answer in (first, second)]
        inner.set_attn_implementation(shared_prompts.NAME)
        layout = Layout.of([(9, (7, 8))])
        packed = _last_hidden(
            inner,
            torch.cat([prompt, first, second]),
            device,
            position_ids=layout.positions().to(device),
            trivet_layout=layout,
        )
        found = [packed[:16], torch.cat([packed[:9], packed[16:]])]
        seen = _compared(inner.get_output_embeddings())
        equal = all(
            bool((seen(a) - seen(b)).abs().max() < TOLERANCE) for a, b in zip(expected, found, strict=True)
        )
    except (ValueError, TypeError, UnsupportedError):
        equal = False
    finally:
        model.train(training)
    if not equal:
        inner.set_attn_implementation(before)
    return equal


def _compared(output: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What must be equal: log-probabilities; without an output layer hidden states, their size taken as 1."""
    if output is not None:
        return lambda states: output(states).float().log_softmax(-1)
    return lambda states: states.float() / states.float().square().mean(-1, keepdim=True).sqrt()


@torch.no_grad()
def _last_hidden(inner: Any, tokens: torch.Tensor, device: torch.device, **inputs: Any) -> torch.Tensor:
    decoder = getattr(inner, inner.base_model_prefix)
    states: torch.Tensor = decoder(tokens[None].to(device), use_cache=False, **inputs).last_hidden_state[0]
    return states
