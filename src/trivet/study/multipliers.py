"""What an answer costs as a multiple of plain greedy decoding on the same model, on the same prompts."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from trivet.statistics.interval import t_quantile
from trivet.statistics.means import clustered_mean
from trivet.study.measurements import Measurement
from trivet.study.results import Estimate, Interval, Multiplier, SystemInfo
from trivet.systems.spec import PLAIN

METHOD = "delta method on the logarithm, t, clustered"


def bases_of(systems: Sequence[SystemInfo], reference: str) -> dict[str, str | None]:
    """The plain system that each system's cost is a multiple of, ``None`` where the study holds none.

    Plain: the same model, no decoding method, no guards. The reference comes first where it is such a system
    and greedy, then those that are greedy, with the system's own prompt before others, in the study's order.
    """
    return {system.name: _base(system, systems, reference) for system in systems}


def _base(system: SystemInfo, systems: Sequence[SystemInfo], reference: str) -> str | None:
    plain = [other for other in systems if _is_plain(other) and _model(other) == _model(system)]

    def order(other: SystemInfo) -> tuple[bool, bool, bool]:
        greedy = _is_greedy(other)
        return (
            not (greedy and other.name == reference),
            not greedy,
            other.spec.get("system_prompt") != system.spec.get("system_prompt"),
        )

    return min(plain, key=order).name if plain else None


def _is_plain(system: SystemInfo) -> bool:
    decode = system.spec.get("decode")
    return isinstance(decode, Mapping) and decode.get("method") == PLAIN and not system.spec.get("guards")


def _is_greedy(system: SystemInfo) -> bool:
    return bool((system.spec.get("sampling") or {}).get("temperature", 0) == 0)


def _model(system: SystemInfo) -> tuple[Any, ...]:
    """The model and how it is run; ``merge`` stands in a merged system's specification in its place."""
    spec = system.spec
    return (system.model, *(spec.get(key) for key in ("merge", "engine", "device", "dtype", "device_map")))


def multiplier(
    base: str | None,
    rows: Sequence[Measurement],
    base_rows: Sequence[Measurement],
    latency: Mapping[str, Any] | None,
    base_latency: Mapping[str, Any] | None,
    *,
    level: float = 0.95,
) -> Multiplier:
    """The costs of a system's answers divided by those of its base's.

    Both are ratios of means over the prompts that both answered: forward tokens over the study's answers, the
    answers to one prompt averaged first; seconds over the prompts of the latency step.
    """
    if base is None:
        none = Estimate(value=None, reason="no system of the study decodes this model plainly")
        return Multiplier(base=None, forward_tokens=none, seconds=none)
    ours, theirs = _by_prompt(rows), _by_prompt(base_rows)
    shared = [key for key in ours if key in theirs]
    clusters = {_prompt(row): (row.evaluation, row.cluster) for row in rows}
    tokens = _ratio(
        [ours[key] for key in shared],
        [theirs[key] for key in shared],
        [clusters[key] for key in shared],
        what="forward tokens",
        level=level,
    )
    return Multiplier(
        base=base,
        forward_tokens=tokens,
        seconds=_of_seconds(latency, base_latency, level),
        n_prompts=len(shared),
    )


def _prompt(row: Measurement) -> tuple[str, str]:
    return row.evaluation, row.sample_id


def _by_prompt(rows: Sequence[Measurement]) -> dict[tuple[str, str], float]:
    counts: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        count = (row.metadata.get("costs") or {}).get("forward_tokens")
        if count is not None:
            counts.setdefault(_prompt(row), []).append(float(count))
    return {key: sum(values) / len(values) for key, values in counts.items()}


def _of_seconds(latency: Mapping[str, Any] | None, base: Mapping[str, Any] | None, level: float) -> Estimate:
    if not latency or not base:
        return Estimate(value=None, reason="the time of one answer alone was not measured")
    ours, theirs = latency["seconds"], base["seconds"]
    if len(ours) != len(theirs):
        return Estimate(value=None, reason="the two could not answer the same prompts")
    return _ratio(ours, theirs, range(len(ours)), what="seconds", level=level)


def _ratio(
    ours: Sequence[float], theirs: Sequence[float], clusters: Sequence[Hashable], *, what: str, level: float
) -> Estimate:
    """Σ ours / Σ theirs: the mean of the prompts' own ratios, each weighted with what the base took."""
    values, weights = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if not weights.sum():
        return Estimate(value=None, reason=f"{what} are not known for the same prompts of both")
    kept = weights > 0  # a prompt that cost the base nothing has no ratio of its own
    found = clustered_mean(
        values[kept] / weights[kept],
        [cluster for cluster, keep in zip(clusters, kept, strict=True) if keep],
        weights[kept],
        level=level,
        bounds=None,
    )
    assert found.value is not None
    value, error = found.value, found.standard_error
    if error is None or value <= 0:
        return Estimate(value=value, reason="one prompt, or one cluster of prompts, gives no interval")
    if error <= 1e-12 * value:
        return Estimate(value=value, reason="the ratio is the same on every prompt")
    # On the logarithm, as a ratio is never negative.
    reach = math.exp(t_quantile(level, found.clusters - 1) * error / value)
    interval = Interval(low=value / reach, high=value * reach, level=level, method=METHOD)
    return Estimate(value=value, standard_error=error, interval=interval)
