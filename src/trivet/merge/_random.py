"""Random choices that depend on a tensor's name and an element's place, and on nothing else.

A merge that streams a tensor in blocks of any size, or holds it whole, chooses the same for the same element:
the generator jumps to the element's place.
"""

from typing import Any, TypeAlias

import numpy as np

from trivet._files import sha256_text

Array: TypeAlias = np.ndarray[Any, Any]


def draws(seed: int, name: str, expert: int, first: int, count: int) -> Array:
    """``count`` uniform whole numbers, uint32, for the elements from ``first`` on of an expert's tensor.

    The stream of (seed, name, expert) is PCG64-DXSM's, two numbers from each of its outputs.
    """
    key = int(sha256_text(name)[:16], 16)
    generator = np.random.PCG64DXSM(np.random.SeedSequence([seed, key, expert]))
    generator.advance(first // 2)
    skipped = first % 2
    # Generator.integers lets other threads go on meanwhile; random_raw does not.
    words = np.random.Generator(generator).integers(0, 2**64, (count + skipped + 1) // 2, dtype=np.uint64)
    return words.astype("<u8", copy=False).view("<u4")[skipped : skipped + count]


def bounds(probabilities: Array | float) -> Array:
    """uint32 that a draw lies below with the given probabilities, each in [0, 1) and kept to 2⁻³²."""
    return np.minimum(np.round(np.multiply(probabilities, 2.0**32)), 2.0**32 - 1).astype(np.uint32)
