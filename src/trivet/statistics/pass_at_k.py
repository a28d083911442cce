"""pass@k: the chance that at least one of k answers is right."""

import numpy as np
import numpy.typing as npt


def pass_at_k(correct: npt.ArrayLike, n: npt.ArrayLike, k: int) -> npt.NDArray[np.float64]:
    """The unbiased estimate ``1 - C(n-c, k)/C(n, k)`` for each question.

    Chen et al. 2021, *Evaluating large language models trained on code* (arXiv 2107.03374), equation 1. The
    plug-in ``1 - (1 - c/n)^k`` is biased downwards and is not offered.

    Args:
        correct: right answers a question, whole numbers.
        n: answers a question, each at least ``k``; a number or an array of the same shape.

    Returns:
        float64 of the shape of ``correct``, in [0, 1].

    Raises:
        ValueError: ``k < 1``, ``n < k``, or not ``0 ≤ correct ≤ n``.
    """
    c, n = np.broadcast_arrays(np.asarray(correct, dtype=np.int64), np.asarray(n, dtype=np.int64))
    if k < 1:
        raise ValueError(f"k must be at least 1, received {k}")
    if np.any(n < k):
        raise ValueError(f"every question needs at least k = {k} scored answers, one has {int(n.min())}")
    if np.any((c < 0) | (c > n)):
        raise ValueError("correct answers must number between 0 and n")
    # C(n-c, k)/C(n, k) as a product of k factors; a factor of 0 where fewer than k are wrong.
    steps = np.arange(k)
    factors = np.maximum(n[..., None] - c[..., None] - steps, 0) / (n[..., None] - steps)
    return np.asarray(1 - factors.prod(axis=-1), dtype=np.float64)
