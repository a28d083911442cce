"""Random numbers that depend on a tensor's name and an element's place, and on nothing else.

A merge that streams a tensor in blocks of any size, or holds it whole, draws the same number for the same
element: the generator jumps to the element's place.
"""

import numpy as np
import torch

from trivet._files import sha256_text


def uniform(seed: int, name: str, expert: int, first: int, count: int) -> torch.Tensor:
    """``count`` numbers in [0, 1) for the elements from ``first`` on of an expert's tensor, float32.

    The stream of (seed, name, expert) is PCG64-DXSM's, two numbers of 24 bits from each of its outputs.
    """
    key = int(sha256_text(name)[:16], 16)
    generator = np.random.PCG64DXSM(np.random.SeedSequence([seed, key, expert]))
    generator.advance(first // 2)
    skipped = first % 2
    drawn = np.random.Generator(generator).random(count + skipped, dtype=np.float32)
    return torch.from_numpy(drawn[skipped:])
