"""Fitting a linear head on preference pairs: the mean hidden state of an answer → a score.

With ``h(answer)`` that state, the score is ``w · h + b`` and ``w`` is the Bradley-Terry estimate on
``h(chosen) - h(rejected)``, each dimension divided by its standard deviation, with the L2 penalty that
cross-validation (folds by prompt) likes best. A difference of two scores is the log-odds that people prefer
the first answer. ``b`` makes the training answers' mean 0. Reward and cost heads: Ouyang et al., arXiv
2203.02155; Dai et al., "Safe RLHF", arXiv 2310.12773.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trivet._validation import Config
from trivet.data.prompts import prompt_digest
from trivet.errors import JudgeError
from trivet.judges.exchange import message_text
from trivet.judges.hidden_states import StateCache, usable_pairs
from trivet.judges.logistic import choose_penalty, fit_bradley_terry, grouped_folds
from trivet.models.cache import cache_folder
from trivet.models.engines import get_engine
from trivet.models.names import resolve_model
from trivet.statistics.interval import Estimated
from trivet.statistics.proportions import wilson

PENALTIES = tuple(float(10.0**power) for power in np.arange(0, 5.5, 0.5))
Pair = Mapping[str, Any]


class FitConfig(Config):
    """Settings of a fit.

    ``layer`` counts blocks (18 of 30 and the mean over the answer did best among layers and poolings on 700
    pairs); ``max_tokens`` bounds the answer; ``limit`` bounds the pairs, a seeded draw of all that are given.
    """

    model: str = "smollm2-135m-instruct"
    layer: int = Field(default=18, ge=0)
    max_tokens: int = Field(default=128, ge=1)
    limit: int | None = Field(default=None, ge=20)
    objective: str = "harmlessness"
    seed: int = Field(default=0, ge=0)
    folds: int = Field(default=5, ge=2)


class FittedHead(NamedTuple):
    """A head: ``score = weights · mean hidden state + bias``; what it was fitted with and how good it is."""

    weights: NDArray[np.float32]
    bias: float
    config: FitConfig
    pairs: int
    left_out: int
    penalty: float
    cross_validated: float
    held_out: Estimated | None
    training_prompts: frozenset[str]
    weights_identity: str
    weights_source: str


def fit_head(
    pairs: Sequence[Pair],
    config: FitConfig,
    *,
    test: Sequence[Pair] = (),
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    cache: Path | None = None,
) -> FittedHead:
    """Fit a head.

    Args:
        pairs: rows of kind ``preferences`` (``prompt``, ``chosen``, ``rejected``: lists of messages).
        test: pairs to measure the accuracy on. Training pairs that share a prompt with them are left out.
        progress: called with what is done, how much of it, and of how much.
        cache: folder for hidden states; by default in Trivet's cache.

    Raises:
        JudgeError: fewer than 20 usable pairs.
        ModelError, EngineError: the model cannot be loaded or has no such layer.
    """
    apart = frozenset[str]().union(*(prompts_of(pair) for pair in test))
    usable = [pair for pair in pairs if not prompts_of(pair) & apart]
    order = np.random.default_rng(config.seed).permutation(len(usable))[: config.limit]
    chosen = [usable[index] for index in order]
    engine = get_engine(config.model)
    store = StateCache(
        cache or cache_folder() / "hidden-states", engine, layer=config.layer, max_tokens=config.max_tokens
    )

    def states(rows: Sequence[Pair], what: str) -> list[Any]:
        chats = [[*row["prompt"], *row[side]] for row in rows for side in ("chosen", "rejected")]
        return store.states(chats, lambda done: progress(what, done, len(chats)))

    read = states(chosen, "training answers")
    kept, differences = zip(*usable_pairs(read), strict=True)
    if len(kept) < 20:
        raise JudgeError(f"{len(kept)} usable pairs are too few for a fit; at least 20 are needed")
    weights, penalty, accuracy = _fit(
        np.stack(differences), [min(prompts_of(chosen[index])) for index in kept], config
    )
    means = np.mean([state for state in read if not isinstance(state, str)], axis=0)
    held_out = _accuracy(states(test, "test answers"), weights) if test else None
    return FittedHead(
        weights=weights,
        bias=-float(means @ weights),
        config=config,
        pairs=len(kept),
        left_out=len(chosen) - len(kept),
        penalty=penalty,
        cross_validated=accuracy,
        held_out=held_out,
        training_prompts=frozenset[str]().union(*(prompts_of(chosen[index]) for index in kept)),
        weights_identity=resolve_model(config.model).identity,
        weights_source=_source(engine.description, engine.name),
    )


def _source(description: Mapping[str, Any], name: str) -> str:
    source = description.get("source")
    if not isinstance(source, Mapping):
        return str(source or name)
    return ", ".join(str(source[key]) for key in ("model", "source", "weights") if source.get(key))


def prompts_of(pair: Pair) -> frozenset[str]:
    """Digests of the user messages of a pair: any of them may be a prompt of an evaluation."""
    return frozenset(
        prompt_digest(message_text(message) or "") for message in pair["prompt"] if message["role"] == "user"
    )


def _fit(
    differences: NDArray[np.float32], groups: Sequence[str], config: FitConfig
) -> tuple[NDArray[np.float32], float, float]:
    """Weights in the hidden states' own scale, the penalty, and the cross-validated accuracy."""
    scale = differences.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1.0
    d = differences / scale
    folds = grouped_folds(groups, config.folds, config.seed)
    right: dict[float, int] = {}

    def score(penalty: float, held_out: NDArray[np.bool_]) -> float:
        if not held_out.any() or held_out.all():
            return 0.0
        margin = d[held_out] @ fit_bradley_terry(d[~held_out], penalty)
        right[penalty] = right.get(penalty, 0) + int((margin > 0).sum())
        return -float(np.logaddexp(0.0, -margin).mean())

    choice = choose_penalty(PENALTIES, folds, score)
    weights = fit_bradley_terry(d, choice.penalty) / scale
    return weights.astype(np.float32), choice.penalty, right[choice.penalty] / len(d)


def _accuracy(states: Sequence[Any], weights: NDArray[np.float32]) -> Estimated:
    """Share of pairs whose chosen answer scores higher, with Wilson's interval; a tie counts as wrong."""
    margins = [float(difference @ weights) for _, difference in usable_pairs(states)]
    right = sum(margin > 0 for margin in margins)
    rate, n = right / len(margins), len(margins)
    return Estimated(rate, float(np.sqrt(rate * (1 - rate) / n)), wilson(right, n), n, n)
