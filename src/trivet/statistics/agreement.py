"""How well a judge agrees with labels: Cohen's kappa, sensitivity and specificity, with intervals."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trivet.statistics.interval import Estimated, Interval, normal_quantile
from trivet.statistics.proportions import wilson

Floats = npt.NDArray[np.float64]


class Confusion(NamedTuple):
    """A judge's verdicts on one binary event against labels."""

    true_positive: int
    false_negative: int
    true_negative: int
    false_positive: int

    @property
    def n(self) -> int:
        """All labelled answers."""
        return sum(self)

    def sensitivity(self, *, level: float = 0.95) -> Estimated:
        """Share of the labelled events that the judge finds, with Wilson's interval."""
        return _rate(self.true_positive, self.false_negative, "has the event", level)

    def specificity(self, *, level: float = 0.95) -> Estimated:
        """Share of the others that the judge leaves, with Wilson's interval."""
        return _rate(self.true_negative, self.false_positive, "is free of the event", level)

    def youden(self, *, level: float = 0.95) -> Estimated:
        """Sensitivity + specificity - 1, with the interval of Newcombe (1998) for two independent rates."""
        se, sp = self.sensitivity(level=level), self.specificity(level=level)
        if se.value is None or sp.value is None or se.interval is None or sp.interval is None:
            return Estimated(None, None, None, self.n, self.n, se.reason or sp.reason)
        value = se.value + sp.value - 1
        interval = Interval(
            max(value - math.hypot(se.value - se.interval.low, sp.value - sp.interval.low), -1.0),
            min(value + math.hypot(se.interval.high - se.value, sp.interval.high - sp.value), 1.0),
            level,
            "Newcombe",
        )
        error = math.hypot(se.standard_error or 0.0, sp.standard_error or 0.0)
        return Estimated(value, error, interval, self.n, self.n)


def confusion(labels: Sequence[bool], verdicts: Sequence[bool]) -> Confusion:
    """Count the four cases; ``labels`` are taken for the truth.

    Raises:
        ValueError: the lengths differ.
    """
    truth, judged = np.asarray(labels, dtype=bool), np.asarray(verdicts, dtype=bool)
    if truth.shape != judged.shape:
        raise ValueError("labels and verdicts must be of one length")
    return Confusion(
        int((truth & judged).sum()),
        int((truth & ~judged).sum()),
        int((~truth & ~judged).sum()),
        int((~truth & judged).sum()),
    )


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    labels: Sequence[Hashable] | None = None,
    weights: str | None = None,
    level: float = 0.95,
) -> Estimated:
    """Agreement beyond chance, ``κ = 1 - Σ v p / Σ v e``, ``v`` being the weight of a disagreement.

    Cohen 1960, *A coefficient of agreement for nominal scales*; weighted: Cohen 1968. The standard error is
    the large-sample one of Fleiss, Cohen and Everitt 1969, as the delta method gives it for multinomial cell
    shares. Where no disagreement was seen that error is 0; the interval's lower end is then taken from the
    upper Wilson bound of the disagreement rate.

    Args:
        labels: the categories, in order where ``weights`` is ``"quadratic"``; by default those seen.
        weights: ``None`` or ``"quadratic"`` (for ordered categories).

    Raises:
        ValueError: the lengths differ, a value is not in ``labels``, or ``weights`` is unknown.
    """
    if len(first) != len(second):
        raise ValueError("both raters must rate the same items")
    if weights not in (None, "quadratic"):
        raise ValueError(f"weights must be None or 'quadratic', received {weights!r}")
    names = list(dict.fromkeys([*first, *second])) if labels is None else list(labels)
    codes = {name: number for number, name in enumerate(names)}
    unknown = [value for value in [*first, *second] if value not in codes]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not one of the labels")
    n = len(first)
    if n == 0:
        return Estimated(None, None, None, 0, 0, "there are no items")
    table = np.zeros((len(names), len(names)))
    for a, b in zip(first, second, strict=True):
        table[codes[a], codes[b]] += 1
    return _kappa(table / n, n, _disagreement(len(names), weights), level)


def _kappa(p: Floats, n: int, v: Floats, level: float) -> Estimated:
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    seen, chance = float((v * p).sum()), float(rows @ v @ columns)
    if chance == 0:
        return Estimated(
            None, None, None, n, n, "both raters gave one and the same label, so kappa is undefined"
        )
    kappa = 1 - seen / chance
    # Delta method: the gradient of κ by the cell p_ij, with d(chance)/dp_ij = (v·columns)_i + (rows·v)_j.
    gradient = -v / chance + seen / chance**2 * ((v @ columns)[:, None] + (rows @ v)[None, :])
    variance = max(float((p * gradient**2).sum()) - float((p * gradient).sum()) ** 2, 0.0) / n
    error = math.sqrt(variance)
    if seen == 0:
        upper = wilson(0, n, level=level).high * float(v.max())
        return Estimated(
            kappa, error, Interval(max(1 - upper / chance, -1.0), 1.0, level, "Wilson on disagreement"), n, n
        )
    half = normal_quantile(level) * error
    interval = Interval(max(kappa - half, -1.0), min(kappa + half, 1.0), level, "Fleiss-Cohen-Everitt")
    return Estimated(kappa, error, interval, n, n)


def _disagreement(count: int, weights: str | None) -> Floats:
    place = np.arange(count, dtype=np.float64)
    distance = np.abs(place[:, None] - place[None, :])
    return distance**2 if weights == "quadratic" else (distance > 0).astype(np.float64)


def _rate(hits: int, misses: int, what: str, level: float) -> Estimated:
    n = hits + misses
    if n == 0:
        return Estimated(None, None, None, 0, 0, f"no labelled answer {what}")
    rate = hits / n
    return Estimated(rate, math.sqrt(rate * (1 - rate) / n), wilson(hits, n, level=level), n, n)
