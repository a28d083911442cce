"""Which weights are tried next: the points of a simplex grid in order, or what TPE asks for.

TPE: "Algorithms for Hyper-Parameter Optimization" (Bergstra et al. 2011), with several objectives as in
"Multiobjective Tree-Structured Parzen Estimator" (Ozaki et al. 2022), as Optuna implements it. What it asks
for follows from the seed and the trials that are known alone, so that a search that was interrupted goes on
with the weights that it would have tried.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from math import comb
from typing import Any

from trivet.errors import ConfigError
from trivet.study.address import derived_seed

MOST_POINTS = 10_000
"""Candidates of one search, at most."""

Weights = tuple[float, ...]
Objectives = tuple[float, ...]


def steps_of(step: float) -> int:
    """How many steps the interval from 0 to 1 has.

    Raises:
        ValueError: they do not end at 1.
    """
    steps = round(1 / step)
    if abs(steps * step - 1) > 1e-9:
        raise ValueError(f"the step must divide 1, as 0.5, 0.25 or 0.1 do; {step:g} does not")
    return steps


def grid_size(step: float, experts: int) -> int:
    """The number of points of ``simplex_grid``: C(n + k − 1, k − 1) for n steps and k experts."""
    return comb(steps_of(step) + experts - 1, experts - 1)


def simplex_grid(step: float, experts: int) -> Iterator[Weights]:
    """All weights w ≥ 0 in multiples of ``step`` that sum to 1, each once."""
    steps = steps_of(step)
    # Stars and bars: k − 1 bars among n + k − 1 places; the stars between two bars are one weight.
    places = steps + experts - 1
    for bars in combinations(range(places), experts - 1):
        edges = (-1, *bars, places)
        yield tuple((after - before - 1) / steps for before, after in pairwise(edges))


def next_on_grid(step: float, experts: int, tried: set[Weights]) -> Weights | None:
    """The first point that was not tried; ``None`` where none is left."""
    return next((weights for weights in simplex_grid(step, experts) if weights not in tried), None)


def next_of_tpe(
    low: float, high: float, experts: int, seed: int, known: Sequence[tuple[Weights, Objectives | None]]
) -> Weights:
    """What TPE asks for after the trials that are known.

    Args:
        low, high: bounds of every weight; trials outside are not told.
        seed: of the search.
        known: weights and objectives (larger is better) of the trials so far, in order; ``None`` for a trial
            that has no objectives.

    Raises:
        ConfigError: Optuna is not installed.
    """
    optuna = require_optuna()
    space = {f"w{place}": optuna.distributions.FloatDistribution(low, high) for place in range(experts)}
    axes = next((len(objectives) for _, objectives in known if objectives is not None), 1)
    study = optuna.create_study(
        directions=["maximize"] * axes,
        sampler=optuna.samplers.TPESampler(seed=derived_seed(seed, "tpe", len(known))),
    )
    for weights, objectives in known:
        if all(low <= weight <= high for weight in weights):
            state = optuna.trial.TrialState.FAIL if objectives is None else optuna.trial.TrialState.COMPLETE
            parameters = dict(zip(space, weights, strict=True))
            study.add_trial(
                optuna.trial.create_trial(
                    state=state, params=parameters, distributions=space, values=objectives
                )
            )
    asked = study.ask(space).params
    return tuple(float(asked[key]) for key in space)


def require_optuna() -> Any:
    """The package Optuna, quiet.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "over.weight.trials: TPE needs the package optuna",
            hint="pip install 'trivet[search]', or search a grid",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
