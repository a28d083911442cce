"""Log-probabilities of given tokens from hidden states, without ever holding [tokens × vocabulary].

log p(y | h) = (W h)_y − log Σ_v exp (W h)_v is computed for a few hundred tokens at a time, forward and again
backward. What a language model's loss needs of its output layer then takes memory for one chunk of logits
instead of all of them twice (logits and their gradient), and one more matrix product for each answer token.
"""

from typing import Any

import torch

CHUNK_ELEMENTS = 2**24
"""Logits that are held at once: 64 MiB in float32."""


def answer_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, tokens: torch.Tensor
) -> torch.Tensor:
    """Log-probability of each token, natural logarithm, float32 [tokens].

    Args:
        hidden: last hidden states from which the tokens are predicted [tokens, width].
        weight: of the output layer [vocabulary, width].
        bias: of the output layer [vocabulary], or ``None``.
        tokens: token ids [tokens].

    The logits are computed in the type of ``hidden`` and normalised in float32.
    """
    result: torch.Tensor = _AnswerLogprobs.apply(hidden, weight, bias, tokens)  # type: ignore[no-untyped-call]
    return result


def _chunk(vocabulary: int) -> int:
    return max(1, CHUNK_ELEMENTS // vocabulary)


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.nn.functional.linear(hidden, weight, bias).float()


class _AnswerLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        normalisers = hidden.new_empty(len(tokens), dtype=torch.float32)
        chosen = torch.empty_like(normalisers)
        for start in range(0, len(tokens), _chunk(len(weight))):
            part = slice(start, start + _chunk(len(weight)))
            logits = _logits(hidden[part], weight, bias)
            normalisers[part] = logits.logsumexp(-1)
            chosen[part] = logits.gather(1, tokens[part, None])[:, 0]
        context.save_for_backward(hidden, weight, bias, tokens, normalisers)
        return chosen - normalisers

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, tokens, normalisers = context.saved_tensors
        (upstream,) = gradients
        of_hidden = torch.empty_like(hidden) if context.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if context.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if bias is not None and context.needs_input_grad[2] else None
        for start in range(0, len(tokens), _chunk(len(weight))):
            part = slice(start, start + _chunk(len(weight)))
            scale = upstream[part, None].float()
            # d log p(y) / d logits = 1[v = y] − p(v), times what comes from above
            slope = _logits(hidden[part], weight, bias)
            slope.sub_(normalisers[part, None]).exp_().mul_(-scale)
            slope.scatter_add_(1, tokens[part, None], scale)
            slope = slope.to(hidden.dtype)
            if of_hidden is not None:
                torch.mm(slope, weight.to(hidden.dtype), out=of_hidden[part])
            if of_weight is not None:
                of_weight.addmm_(slope.T.to(weight.dtype), hidden[part].to(weight.dtype))
            if of_bias is not None:
                of_bias += slope.sum(0)
        return of_hidden, of_weight, of_bias, None
