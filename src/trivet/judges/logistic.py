"""Logistic regression with an L2 penalty: multinomial, and Bradley-Terry on differences.

Both are convex, start at zero and are solved by L-BFGS in float64, so that equal data give equal weights.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from trivet.errors import JudgeError

Floats = NDArray[np.float64]


def fit_multinomial(
    features: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: int,
    penalty: float,
    weight: NDArray[np.floating] | None = None,
) -> tuple[Floats, Floats]:
    """Weights [classes, features] and intercepts [classes] that minimise

        -1/n Σ weight_i log p(label_i | x_i) + penalty / (2 n) · ‖W‖²

    with ``p = softmax(W x + b)`` and n the sum of the weights; the intercepts are not penalised.

    Args:
        features: [n, features], finite.
        labels: [n], in 0 … classes - 1.
        weight: [n], of each row; by default 1.

    Raises:
        JudgeError: a class has no row.
    """
    if len(set(labels.tolist())) != classes:
        raise JudgeError("every class needs at least one row to fit a classifier")
    x = np.asarray(features, dtype=np.float64)
    width = x.shape[1]
    importance = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=np.float64)
    n = float(importance.sum())
    target = np.eye(classes)[labels]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, intercepts = flat[:-classes].reshape(classes, width), flat[-classes:]
        logp = log_softmax(x @ weights.T + intercepts, axis=1)
        error = (np.exp(logp) - target) * importance[:, None] / n
        value = -float((importance @ (target * logp)).sum()) / n + penalty / (2 * n) * float(
            (weights**2).sum()
        )
        gradient = error.T @ x + penalty / n * weights
        return value, np.concatenate([gradient.ravel(), error.sum(axis=0)])

    flat = _minimise(loss, classes * width + classes)
    return flat[:-classes].reshape(classes, width), flat[-classes:]


def fit_bradley_terry(differences: NDArray[np.floating], penalty: float) -> Floats:
    """Weights [width] that minimise ``1/n Σ log(1 + exp(-w · d_i)) + penalty / (2 n) ‖w‖²``.

    Bradley and Terry 1952, *Rank analysis of incomplete block designs*: the probability that the first of two
    answers is preferred is ``σ(w · x_first - w · x_second)``, and ``d_i = x_chosen - x_rejected``.

    Args:
        differences: [n, width], finite.
    """
    d = np.asarray(differences, dtype=np.float64)
    n, width = d.shape

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = d @ w
        value = float(np.logaddexp(0.0, -margin).mean()) + penalty / (2 * n) * float(w @ w)
        slope = -1.0 / (1.0 + np.exp(np.clip(margin, -500, 500)))
        return value, d.T @ slope / n + penalty / n * w

    return _minimise(loss, width)


def _minimise(loss: Callable[[Floats], tuple[float, Floats]], size: int) -> Floats:
    result = minimize(
        loss,
        np.zeros(size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-7},
    )
    solution: Floats = result.x
    if not np.isfinite(solution).all():
        raise JudgeError("the fit did not converge: the features hold values that are far too large")
    return solution


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold, 0 … folds - 1, for each row; rows of one group share theirs. int64 [rows]."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = {names[index]: place % folds for place, index in enumerate(order)}
    return np.array([fold_of[group] for group in groups], dtype=np.int64)


class Choice(NamedTuple):
    """The penalty that cross-validation chose, and the score of each."""

    penalty: float
    scores: dict[float, float]


def choose_penalty(
    penalties: Sequence[float], folds: NDArray[np.int64], score: Callable[[float, NDArray[np.bool_]], float]
) -> Choice:
    """The penalty with the best mean of ``score(penalty, held_out)`` over the folds; the larger on a tie.

    ``held_out`` is a mask [rows]; ``score`` fits on the others and returns the mean log-likelihood there.
    """
    scores = {
        penalty: float(np.mean([score(penalty, folds == fold) for fold in np.unique(folds)]))
        for penalty in sorted(penalties, reverse=True)
    }
    return Choice(max(scores, key=lambda penalty: scores[penalty]), scores)
