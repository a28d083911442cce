"""Drawing the next token of many requests at once, each with its own settings and random stream.

Filters apply in the order penalties, bias, temperature, top-k, top-p (Holtzman et al., arXiv 1904.09751),
min-p (Nguyen et al., arXiv 2407.01082), with the semantics of transformers: ties with the last kept token are
kept, and each filter sees the distribution that the filter before it left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from trivet.models.operations import Sampling

_NUCLEUS_GUESS = 512  # the nucleus is looked for among so many tokens first; sorting all of them is slow


@dataclass
class Draw:
    """One request's settings and state at one step. ``prompt`` and ``answer`` are token ids so far."""

    sampling: Sampling
    random: np.random.Generator = field(default_factory=np.random.default_rng)
    prompt: Sequence[int] = ()
    answer: Sequence[int] = ()
    top_logprobs: int = 0


@dataclass
class Drawn:
    """The drawn token, its log-probability under the model's own distribution, and the alternatives."""

    token: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = field(default=())


def draw(logits: torch.Tensor, rows: Sequence[Draw]) -> list[Drawn]:
    """Draw one token for each row of ``logits`` (float32 [rows, vocabulary], after logits transforms)."""
    totals = torch.logsumexp(logits, dim=-1)
    adjusted = logits
    changed = [index for index, row in enumerate(rows) if _has_penalty(row.sampling)]
    if changed:
        adjusted = logits.clone()
        for index in changed:
            adjusted[index] = penalised(adjusted[index], rows[index])
    tokens = adjusted.argmax(dim=-1)
    sampled = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if sampled:
        places = torch.tensor(sampled, device=logits.device)
        chosen = [rows[index] for index in sampled]
        warped = _warped(adjusted[places], chosen)
        tokens[places] = pick(warped, [row.random.random() for row in chosen])
    return described(logits, tokens, [row.top_logprobs for row in rows], totals)


def described(
    logits: torch.Tensor, tokens: torch.Tensor, counts: Sequence[int], totals: torch.Tensor | None = None
) -> list[Drawn]:
    """``tokens`` [rows] with their log-probabilities under ``logits`` [rows, vocabulary], each with so many
    alternatives as ``counts`` says. ``totals``: the logarithms of the normalising sums, where known."""
    if totals is None:
        totals = torch.logsumexp(logits, dim=-1)
    logprobs = (logits.gather(1, tokens[:, None])[:, 0] - totals).tolist()
    widest = max(counts)
    tops: list[tuple[tuple[int, float], ...]] = [() for _ in counts]
    if widest:
        values, indices = (logits - totals[:, None]).topk(widest, dim=-1)
        tops = [
            tuple(zip(ids[:count], best[:count]))
            for count, ids, best in zip(counts, indices.tolist(), values.tolist())
        ]
    return [Drawn(token, logprob, top) for token, logprob, top in zip(tokens.tolist(), logprobs, tops)]


def probabilities(logits: torch.Tensor, rows: Sequence[Draw]) -> torch.Tensor:
    """The distributions that ``draw`` draws from: float64 [rows, vocabulary], each with a sum of 1.

    ``logits``: float32 [rows, vocabulary]. A greedy row has all its mass on its largest logit.
    """
    result = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
    for index, row in enumerate(rows):
        values = logits[index]
        if _has_penalty(row.sampling):
            values = penalised(values.clone(), row)
        if row.sampling.temperature > 0:
            result[index] = _warped(values[None], [row])[0]
        else:
            result[index, values.argmax()] = 1.0
    return result


def _has_penalty(sampling: Sampling) -> bool:
    return bool(
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.logit_bias
    )


def penalised(logits: torch.Tensor, row: Draw) -> torch.Tensor:
    """``logits`` [vocabulary] after penalties and bias.

    The repetition penalty (Keskar et al., arXiv 1909.05858) counts prompt and answer; presence and frequency
    penalties, as in the OpenAI API, count the answer.
    """
    sampling = row.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*row.prompt, *row.answer}), device=logits.device, dtype=torch.long)
        values = logits[seen]
        penalty = sampling.repetition_penalty
        logits[seen] = torch.where(values < 0, values * penalty, values / penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and row.answer:
        answer = torch.tensor(list(row.answer), device=logits.device)
        counts = torch.bincount(answer, minlength=logits.shape[0]).to(logits.dtype)
        logits = logits - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
    for token, bias in sampling.logit_bias:
        logits[token] += bias
    return logits


def _warped(logits: torch.Tensor, rows: Sequence[Draw]) -> torch.Tensor:
    """Probabilities after temperature and filters: float64 [rows, vocabulary]."""

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device, dtype=torch.float32)[:, None]

    scaled = logits / column([row.sampling.temperature for row in rows])
    scaled = filtered(
        scaled,
        top_k=[row.sampling.top_k for row in rows],
        top_p=[row.sampling.top_p for row in rows],
        min_p=[row.sampling.min_p for row in rows],
    )
    return scaled.double().softmax(dim=-1)


def pick(weights: torch.Tensor, uniforms: Sequence[float]) -> torch.Tensor:
    """One token for each row of ``weights`` (float64 [rows, vocabulary], any positive sum): int64 [rows].

    ``uniforms``: a number in [0, 1) for each row. It is the inverse of the cumulative distribution in
    vocabulary order: one uniform number a token, and rounding in the logits cannot reorder the candidates.
    float64, since 50,000 float32 sums lose the tail.
    """
    cumulative = weights.cumsum(dim=-1)
    uniform = torch.tensor(uniforms, device=weights.device, dtype=torch.float64)[:, None]
    picked = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    last = (cumulative < cumulative[:, -1:]).sum(dim=-1)  # the last token with any probability
    return torch.minimum(picked, last)


def filtered(
    logits: torch.Tensor, *, top_k: Sequence[int], top_p: Sequence[float], min_p: Sequence[float]
) -> torch.Tensor:
    """``logits`` [rows, vocabulary] with what the filters remove set to minus infinity."""
    vocabulary = logits.shape[1]
    for index, k in enumerate(top_k):
        if 0 < k < vocabulary:
            row = logits[index]
            logits[index] = row.masked_fill(row < row.topk(k).values[-1], -torch.inf)
    for index, p in enumerate(top_p):
        if p < 1.0:
            row = logits[index]
            logits[index] = row.masked_fill(row < _nucleus_edge(row, p), -torch.inf)
    for index, p in enumerate(min_p):
        if p > 0.0:
            row = logits[index]
            logits[index] = row.masked_fill(row < row.max() + float(np.log(p)), -torch.inf)
    return logits


def _nucleus_edge(row: torch.Tensor, p: float) -> torch.Tensor:
    """The smallest logit inside the nucleus: the fewest most likely tokens whose mass reaches ``p``."""
    total = torch.logsumexp(row, dim=-1)
    for width in (min(_NUCLEUS_GUESS, row.shape[0]), row.shape[0]):
        values = row.topk(width).values
        probabilities = (values - total).exp()
        before = probabilities.cumsum(-1) - probabilities
        kept = int((before < p).sum())
        if kept < width or width == row.shape[0]:
            return values[max(kept, 1) - 1]
    raise AssertionError("the widest search covers the vocabulary")
