"""Vocabularies of models that run side by side.

Distributions of two models can be combined token by token only where a token id means the same in both. A
model may have rows more or fewer (padding, added tokens): what the two do not share gets minus infinity. A
token with two ids is refused, since nothing that is computed afterwards would mean anything.
"""

import torch

from trivet.errors import ModelError
from trivet.models.torch_engine.loading import LoadedModel


def shared_tokens(own: LoadedModel, other: LoadedModel) -> torch.Tensor | None:
    """Which ids of ``own`` are the same token in ``other``: bool [vocabulary of own]; ``None``: all are.

    Raises:
        ModelError: a token has another id in ``other``, or it lacks a token that ends an answer.
    """
    mine, theirs = own.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if mine == theirs and own.rows == other.rows:
        return None
    different = [token for token, place in mine.items() if theirs.get(token, place) != place]
    if different:
        token = min(different, key=mine.__getitem__)
        raise ModelError(
            f"has another vocabulary than {own.where}: {token!r} is token {theirs[token]} there and"
            f" {mine[token]} here",
            where=other.where,
            hint="only models whose tokenizers agree can be mixed",
        )
    ids = [place for token, place in mine.items() if token in theirs and place < min(own.rows, other.rows)]
    shared = torch.zeros(own.rows, dtype=torch.bool)
    shared[ids] = True
    missing = [token for token in own.eos if not shared[token]]
    if missing or not own.eos:
        raise ModelError(
            f"has another vocabulary than {own.where}: it lacks the token that ends an answer,"
            f" {own.tokenizer.convert_ids_to_tokens(missing)}",
            where=other.where,
            hint="only models whose tokenizers agree can be mixed",
        )
    return shared.to(own.device)


def aligned(logits: torch.Tensor, shared: torch.Tensor | None) -> torch.Tensor:
    """``logits`` [positions, other vocabulary] as [positions, len(shared)], minus infinity elsewhere."""
    if shared is None:
        return logits
    wide = logits.new_full((len(logits), len(shared)), -torch.inf)
    count = min(len(shared), logits.shape[1])
    wide[:, :count] = logits[:, :count]
    return wide.masked_fill_(~shared.to(logits.device), -torch.inf)
