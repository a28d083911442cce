"""What the experts' task vectors D_t = W_t − W_0 look like beside one another, tensor by tensor.

Four numbers say whether a merge can work: how long the task vectors are against the base, how far they point
the same way, at how many places they pull in opposite directions, and how much of them is not zero. Each is a
function of sums over elements, so a tensor that is streamed in blocks needs no second pass: ``diagnose`` each
block, add the ``Sums``, and ``finish``.

The same diagnostics are reported by the papers that the room's methods come from: conflicts of sign in TIES
(arXiv 2306.01708), cosines in Model Stock (arXiv 2403.19522).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trivet.errors import MergeError


@dataclass(frozen=True)
class Diagnostics:
    """The numbers of one tensor. ``None`` stands where a number is not defined or not finite.

    ``elements`` is how many places were looked at; ``nonzero`` the share of them at which each task vector is
    not zero (the kept share, where what was looked at is what a method kept); ``cosines`` [experts, experts],
    where a task vector of zeros has no direction and so no cosine; ``conflicts`` the share of places where at
    least two non-zero task vectors disagree in sign; ``relative_norms`` ‖D_t‖ / ‖W_0‖.
    """

    elements: int
    nonzero: list[float]
    cosines: list[list[float | None]] | None
    conflicts: float | None
    relative_norms: list[float | None] | None


@dataclass(frozen=True)
class Sums:
    """Sums over some of a tensor's elements; those of two blocks are added with ``+``.

    ``gram`` is the Gram matrix of the task vectors, float64 [experts, experts]; ``base_square`` the sum of
    the base's squares, ``None`` without a base; ``nonzero`` the count of non-zero elements of each task
    vector; ``conflicts`` the count of places with both a positive and a negative one.
    """

    elements: int
    gram: torch.Tensor
    base_square: float | None
    nonzero: tuple[int, ...]
    conflicts: int

    def __add__(self, other: "Sums") -> "Sums":
        """The sums over both blocks.

        Raises:
            MergeError: they are of different numbers of experts.
        """
        if len(self.nonzero) != len(other.nonzero):
            raise MergeError(
                f"diagnostics of {len(self.nonzero)} and {len(other.nonzero)} experts do not add"
            )
        squares = (self.base_square, other.base_square)
        return Sums(
            self.elements + other.elements,
            self.gram + other.gram,
            None if squares[0] is None or squares[1] is None else squares[0] + squares[1],
            tuple(one + two for one, two in zip(self.nonzero, other.nonzero, strict=True)),
            self.conflicts + other.conflicts,
        )

    def finish(self) -> Diagnostics:
        """The tensor's numbers. With one expert there are neither cosines nor conflicts."""
        several = len(self.nonzero) > 1
        norms = self.gram.diagonal().clamp_min(0).sqrt().tolist()
        base = None if self.base_square is None else math.sqrt(self.base_square)
        return Diagnostics(
            self.elements,
            [count / self.elements if self.elements else 0.0 for count in self.nonzero],
            self._cosines(norms) if several else None,
            self.conflicts / self.elements if several and self.elements else None,
            None if base is None else [_quotient(norm, base) for norm in norms],
        )

    def _cosines(self, norms: list[float]) -> list[list[float | None]]:
        products: list[list[float]] = self.gram.tolist()
        return [
            [_clipped(_quotient(product, norms[row] * norms[column])) for column, product in enumerate(line)]
            for row, line in enumerate(products)
        ]


def diagnose(deltas: Sequence[torch.Tensor], base: torch.Tensor | None = None) -> Sums:
    """The sums of one block.

    Args:
        deltas: the task vectors' elements, float32, all of one shape, at least one.
        base: the base's elements, of the same shape; without it there are no relative norms.

    Raises:
        MergeError: no task vector, or the shapes differ.
    """
    if not deltas:
        raise MergeError("diagnostics need at least one task vector")
    shape = deltas[0].shape
    for part in [*deltas, *([] if base is None else [base])]:
        if part.shape != shape:
            raise MergeError(f"diagnostics of the shapes {list(shape)} and {list(part.shape)} at once")
    flat = [delta.reshape(-1) for delta in deltas]
    gram = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    # Pairs of vectors rather than one product of a stacked matrix: stacking would copy every block.
    for row, one in enumerate(flat):
        for column in range(row, len(flat)):
            gram[row, column] = gram[column, row] = float(torch.dot(one, flat[column]))
    return Sums(
        flat[0].numel(),
        gram,
        None if base is None else float(torch.dot(base.reshape(-1), base.reshape(-1))),
        tuple(int(torch.count_nonzero(delta)) for delta in flat),
        _conflicts(flat),
    )


def _conflicts(deltas: Sequence[torch.Tensor]) -> int:
    """How many places have a positive and a negative element."""
    if len(deltas) < 2:
        return 0
    highest, lowest = torch.maximum(deltas[0], deltas[1]), torch.minimum(deltas[0], deltas[1])
    for delta in deltas[2:]:
        torch.maximum(highest, delta, out=highest)
        torch.minimum(lowest, delta, out=lowest)
    return int(torch.count_nonzero((highest > 0) & (lowest < 0)))


def _quotient(numerator: float, denominator: float) -> float | None:
    """The quotient, or ``None`` where it is not a finite number."""
    if not denominator or not math.isfinite(denominator) or not math.isfinite(numerator):
        return None
    value = numerator / denominator
    return value if math.isfinite(value) else None


def _clipped(cosine: float | None) -> float | None:
    """A cosine in [-1, 1], which rounding may leave by a hair."""
    return None if cosine is None else min(max(cosine, -1.0), 1.0)
