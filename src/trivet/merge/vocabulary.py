"""Which rows of the models' vocabulary tensors make up those of the merged model.

Row i of one model's embeddings and row i of another's are for different tokens where their tokenizers differ.
A ``Vocabulary`` says for each token of the result where each model's row of it is, and what a model gets that
has none: the row of the only model that has it; else the base's where the base has it; else the mean over the
models that have it; zeros where none has it. A recipe may say otherwise for single tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trivet._validation import did_you_mean
from trivet.errors import MergeError
from trivet.merge._tokenizer_files import Tokens
from trivet.merge.tokenizer_rule import ModelToken, TokenRule, ZeroRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_NO_ROW = -1


@dataclass(frozen=True)
class Fill:
    """What a model gets that has no row for a token, by token [size].

    Row ``donor_rows[i]`` of model ``donors[i]`` where that is not -1; the mean over the models that have the
    token where ``average[i]``; else zeros. ``forced`` marks tokens for which every model gets this.
    """

    donors: torch.Tensor
    donor_rows: torch.Tensor
    average: torch.Tensor
    forced: torch.Tensor


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a merged model, and where each model's row of each token comes from.

    ``size`` counts the rows with padding. ``rows[m]`` [size] is model m's row of each token, -1 where it has
    none; ``fill`` what it gets then; ``padding`` [size] marks rows that belong to no token.
    """

    tokenizer: "PreTrainedTokenizerFast"
    size: int
    rows: tuple[torch.Tensor, ...]
    fill: Fill
    padding: torch.Tensor
    warnings: tuple[str, ...]


def align(vocabulary: Vocabulary, model: int, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """One model's vocabulary tensor with a row for each token of the merged model: float32 [size, columns].

    Args:
        model: the model's place among the models that the vocabulary was built from.
        matrices: the tensor of every model, in that order, each [its rows, columns].

    Raises:
        MergeError: the tensors' columns differ, or one has fewer rows than its tokenizer's tokens need.
    """
    _check(vocabulary, matrices)
    own, fill = vocabulary.rows[model], vocabulary.fill
    result = matrices[model].to(torch.float32).index_select(0, own.clamp_min(0))
    missing = ((own < 0) | fill.forced) & ~vocabulary.padding
    result[missing] = 0.0
    averaged = missing & fill.average
    counts = torch.zeros(vocabulary.size)
    for place, matrix in enumerate(matrices):
        given = missing & (fill.donors == place)
        result[given] = matrix[fill.donor_rows[given]].to(torch.float32)
        shared = averaged & (vocabulary.rows[place] >= 0)
        result[shared] += matrix[vocabulary.rows[place][shared]].to(torch.float32)
        counts += shared
    result[averaged] /= counts[averaged, None]
    if bool(vocabulary.padding.any()):
        result[vocabulary.padding] = result[~vocabulary.padding].mean(dim=0)
    return result


def fill_for(
    rows: torch.Tensor,
    ids: Mapping[str, int],
    rules: Mapping[str, TokenRule],
    base: str | None,
    tokens: Mapping[str, Tokens],
) -> Fill:
    """What models get that have no row.

    Args:
        rows: each model's row of each token, [models, size].
        ids: the tokens of the result.
        rules: what the recipe says of single tokens.
        base: the base's name in ``tokens``, where there is a base.
        tokens: each model's tokens by its name, in the order of ``rows``.

    Raises:
        MergeError: a rule names a model or a token that is not there.
    """
    names = list(tokens)
    donors, donor_rows, average = _automatic(rows, None if base is None else names.index(base))
    forced = torch.zeros(rows.shape[1], dtype=torch.bool)
    for token, rule in rules.items():
        if rule.source is not None:
            number = ids[token]
            donors[number], donor_rows[number] = _given(token, rule.source, tokens)
            average[number], forced[number] = False, rule.force
    return Fill(donors, donor_rows, average, forced)


def _automatic(rows: torch.Tensor, base: int | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Donor, its row, and whether to average instead, by token [size], where the recipe says nothing."""
    present = rows >= 0
    count = present.sum(dim=0)
    donors = torch.where(count == 1, present.to(torch.uint8).argmax(dim=0), _NO_ROW)
    average = count > 1
    if base is not None:
        donors = torch.where((count > 1) & present[base], base, donors)
        average = average & ~present[base]
    donor_rows = rows.gather(0, donors.clamp_min(0)[None])[0]
    return donors, donor_rows, average


def _given(token: str, source: ZeroRow | ModelToken | str, tokens: Mapping[str, Tokens]) -> tuple[int, int]:
    """Model and row that a recipe gives for a token; (-1, -1) for zeros."""
    names, where = list(tokens), f"tokenizer.tokens.{token}"
    if isinstance(source, ZeroRow):
        return _NO_ROW, _NO_ROW
    name = source if isinstance(source, str) else source.model
    if name not in tokens:
        raise MergeError(
            f"{name!r} is none of the merged models", where=where, hint=did_you_mean(name, names)
        )
    known = tokens[name]
    if isinstance(source, ModelToken) and source.token_id is not None:
        row, limit = source.token_id, known.rows if known.rows is not None else len(known.ids)
        if row >= limit:
            raise MergeError(f"{name} has {limit} rows, so there is no row {row}", where=where)
        return names.index(name), row
    wanted = token if isinstance(source, str) else source.token
    row = known.row(str(wanted))
    if row < 0:
        raise MergeError(f"{name} has no token {wanted!r}", where=where, hint="give a model that has it")
    return names.index(name), row


def _check(vocabulary: Vocabulary, matrices: Sequence[torch.Tensor]) -> None:
    if len(matrices) != len(vocabulary.rows):
        raise MergeError(f"{len(matrices)} vocabulary tensors for {len(vocabulary.rows)} models")
    for place, (matrix, rows) in enumerate(zip(matrices, vocabulary.rows, strict=True)):
        if matrix.dim() != 2 or matrix.shape[1] != matrices[0].shape[1]:
            shapes = f"{list(matrices[0].shape)} and {list(matrix.shape)}"
            raise MergeError(f"the vocabulary tensors of model 0 and model {place} do not fit: {shapes}")
        given = vocabulary.fill.donor_rows[vocabulary.fill.donors == place]
        needed = max(int(rows.max()), int(given.max()) if given.numel() else 0) + 1
        if needed > matrix.shape[0]:
            raise MergeError(
                f"the vocabulary tensor of model {place} has {matrix.shape[0]} rows, not the {needed} "
                "that its tokenizer needs",
                hint="its config.json says that it has as many",
            )
