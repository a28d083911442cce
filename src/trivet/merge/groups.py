"""The tensors of a merge as its method sees them, be they for a file or for a model that is running."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from trivet.errors import MergeError
from trivet.merge._group import MemoryGroup, ModelScope, TensorGroup
from trivet.merge.layers import VOCABULARY
from trivet.merge.layout import Output, output_dtype
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
        if vocabulary is None or not VOCABULARY.search(output.name) or _unchanged(output, vocabulary):
            return StreamGroup(output, seed=self._merge.recipe.seed)
        return self._vocabulary_group(output, vocabulary)

    def _vocabulary_group(self, output: Output, vocabulary: Vocabulary) -> TensorGroup:
        """A tensor whose rows are tokens: brought into the order of the new vocabulary first, in memory."""
        names = self._merge.recipe.model_names()
        sources = [self._merge.sources.open(name) for name in names]
        matrices = [
            source.rows(output.name, 0, source.weights.entries[output.name].shape[0]) for source in sources
        ]

        def aligned(name: str) -> torch.Tensor:
            return align(vocabulary, names.index(name), matrices)

        base = None if output.base is None else aligned(output.base.source.name)
        experts = [aligned(part.source.name) for part in output.experts]
        return MemoryGroup(experts, base, name=output.name, seed=self._merge.recipe.seed)

    def _all(self) -> Iterator[TensorGroup]:
        for output in self._merge.layout.outputs:
            if output.entry.floating:
                yield self._group(output)


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
