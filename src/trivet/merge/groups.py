"""The tensors of a merge as its method sees them, be they for a file or for a model that is running."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import torch

from trivet.errors import MergeError
from trivet.merge._group import MemoryGroup, ModelScope, TensorGroup
from trivet.merge.layers import OUTPUT_LAYER, VOCABULARY
from trivet.merge.layout import Output, Part, output_dtype
from trivet.merge.sources import Source
from trivet.merge.stream import StreamGroup
from trivet.merge.vocabulary import Vocabulary, align

if TYPE_CHECKING:
    from trivet.merge.executor import Merge


class Groups:
    """Opens the tensors of one merge; what is decided for the whole model is decided once. Threads may share
    it."""

    def __init__(self, merge: "Merge") -> None:
        self._merge = merge
        self._scope = ModelScope(self._all)

    def open(self, output: Output) -> TensorGroup:
        """The tensor of all models, with the whole model in reach."""
        group = self._group(output)
        group.scope = self._scope
        return group

    def _group(self, output: Output) -> TensorGroup:
        vocabulary = self._merge.vocabulary
        if vocabulary is None or not of_tokens(output) or _unchanged(output, vocabulary):
            return StreamGroup(output, seed=self._merge.recipe.seed)
        return self._vocabulary_group(output, vocabulary)

    def _vocabulary_group(self, output: Output, vocabulary: Vocabulary) -> TensorGroup:
        """A tensor whose rows are tokens: brought into the order of the new vocabulary first, in memory."""
        names = self._merge.recipe.model_names()
        parts = vocabulary_parts(output, [self._merge.sources.open(name) for name in names])
        matrices = [_by_token(part) for part in parts]
        shape = (vocabulary.size, *output.entry.shape[1:])

        def aligned(name: str) -> torch.Tensor:
            return align(vocabulary, names.index(name), matrices).reshape(shape)

        base = None if output.base is None else aligned(output.base.source.name)
        experts = [aligned(part.source.name) for part in output.experts]
        return MemoryGroup(experts, base, name=output.name, seed=self._merge.recipe.seed)

    def _all(self) -> Iterator[TensorGroup]:
        for output in self._merge.layout.outputs:
            if output.entry.floating:
                yield self._group(output)


def of_tokens(output: Output) -> bool:
    """Whether each row of a tensor belongs to a token."""
    return VOCABULARY.search(output.name) is not None


def vocabulary_parts(output: Output, sources: Sequence[Source]) -> list[Part]:
    """The tensor of every model that a vocabulary tensor is put together from.

    Models that are not merged into it are among them: they may have rows of tokens that others lack.

    Raises:
        MergeError: a model has none, or one of another shape; the number of tokens may differ.
    """
    merged = {part.source.name: part for part in output.parts}
    parts = []
    for source in sources:
        part = merged.get(source.name) or Part(source, _tensor_of(source, output.name))
        shape = part.entry.shape
        if not shape or shape[1:] != output.entry.shape[1:]:
            raise MergeError(
                f"{part.tensor} has the shape {list(shape)}, which does not fit {list(output.entry.shape)}",
                where=source.name,
                hint="a tokenizer rule joins models that differ in their tokens alone",
            )
        parts.append(part)
    return parts


def _tensor_of(source: Source, name: str) -> str:
    """The tensor that a model has for a vocabulary tensor: a tied output layer is the embedding."""
    if source.entry(name) is None and OUTPUT_LAYER.search(name) and source.weights.tied:
        name = source.weights.embedding or name
    if source.entry(name) is None:
        raise MergeError(
            f"lacks the tensor {name}",
            where=source.name,
            hint="a tokenizer rule needs the embeddings of all models, for the tokens that only some have",
        )
    return name


def _by_token(part: Part) -> torch.Tensor:
    """A whole vocabulary tensor in float32, [tokens, columns]; a bias has one column."""
    shape = part.entry.shape
    return part.source.rows(part.tensor, 0, prod(shape[:-1])).reshape(shape[0], prod(shape[1:]))


def _unchanged(output: Output, vocabulary: Vocabulary) -> bool:
    """Whether the new vocabulary has the rows of every model as they are, which need not be gathered then."""
    same_size = all(part.entry.shape[0] == vocabulary.size for part in output.parts)
    places = torch.arange(vocabulary.size)
    return (
        same_size
        and not bool(vocabulary.fill.forced.any())
        and not bool(vocabulary.padding.any())
        and all(torch.equal(rows, places) for rows in vocabulary.rows)
    )


def common_values(output: Output) -> torch.Tensor:
    """A tensor that holds no floating-point numbers, as all models have it, [rows, columns].

    Raises:
        MergeError: the models differ in it.
    """
    first, *others = output.parts
    values = first.source.weights.read_raw(first.tensor)
    for part in others:
        if not torch.equal(values, part.source.weights.read_raw(part.tensor)):
            raise MergeError(
                f"{output.name} holds no floating-point numbers and differs between the models",
                where=part.source.name,
                hint="such a tensor cannot be merged; make the models agree on it",
            )
    return values


def merged_tensors(merge: "Merge") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a merge in turn: its name and its values, in the type that a file of it would have.

    Raises:
        MergeError, ModelError: a tensor cannot be merged or read.
    """
    groups = Groups(merge)
    for output in merge.layout.outputs:
        if output.entry.floating:
            yield output.name, _merged(groups.open(output), output, merge)
        else:
            yield output.name, common_values(output).reshape(output.entry.shape)


def _merged(group: TensorGroup, output: Output, merge: "Merge") -> torch.Tensor:
    function = merge.layout.method.function(output.config, group)
    dtype = output_dtype(merge.recipe, output.entry)
    result = torch.empty(group.rows, group.columns, dtype=dtype)
    with torch.inference_mode():
        for block in group.blocks():
            result[block.row : block.row + block.rows] = function(block).to(dtype)
    return result.reshape(group.shape)
