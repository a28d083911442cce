"""What an answer of a system costs: exact counts from its answers, latency from its own step."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from trivet.study.measurements import Measurement
from trivet.study.multipliers import multiplier
from trivet.study.results import Costs, Estimate, Multiplier
from trivet.study.spec import Price

COUNTS = ("forward_tokens", "judge_calls")


def costs_of(
    measurements: Sequence[Measurement],
    latencies: Mapping[str, Mapping[str, Any]],
    prices: Mapping[str, Price],
    bases: Mapping[str, str | None] | None = None,
) -> list[Costs]:
    """One entry a system, in the order in which systems first appear.

    Args:
        measurements: with what ``read_logs`` keeps of each answer in their metadata.
        latencies: by system, what the latency step wrote.
        prices: by system, US dollars for a million tokens.
        bases: by system, the plain system that its costs are multiples of (``multipliers.bases_of``).
    """
    by_system: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in measurements:
        by_system[measurement.system].append(measurement)
    costs = [_costs(name, rows, latencies.get(name), prices.get(name)) for name, rows in by_system.items()]
    if bases is None:
        return costs
    return [
        entry.model_copy(update={"multiplier": _multiplier(entry.system, bases, by_system, latencies)})
        for entry in costs
    ]


def _multiplier(
    name: str,
    bases: Mapping[str, str | None],
    by_system: Mapping[str, Sequence[Measurement]],
    latencies: Mapping[str, Mapping[str, Any]],
) -> Multiplier:
    base = bases.get(name)
    base_rows = by_system.get(base, []) if base is not None else []
    base_latency = latencies.get(base) if base is not None else None
    return multiplier(base, by_system[name], base_rows, latencies.get(name), base_latency)


def _costs(
    name: str, rows: Sequence[Measurement], latency: Mapping[str, Any] | None, price: Price | None
) -> Costs:
    # Inspect's input tokens leave out what was found in a cache; our provider gives the whole prompt's.
    whole = _mean_count(rows, "prompt_tokens")
    prompt = _mean(rows, "input_tokens") if whole is None else whole
    completion = _mean(rows, "output_tokens")
    counts = {key: _mean_count(rows, key) for key in COUNTS}
    dollars = None
    if price is not None and prompt is not None and completion is not None:
        dollars = (prompt * price.input + completion * price.output) / 1e6
    first = latency["first_token"] if latency else []
    return Costs(
        system=name,
        n_answers=len(rows),
        prompt_tokens=prompt,
        completion_tokens=completion,
        forward_tokens=counts["forward_tokens"],
        judge_calls=counts["judge_calls"],
        latency_seconds=_latency(latency),
        first_token_seconds=statistics.median(first) if first else None,
        peak_memory_bytes=latency["peak_memory_bytes"] if latency else None,
        dollars=dollars,
        note=_note(latency, counts["forward_tokens"]),
    )


def _note(latency: Mapping[str, Any] | None, forward: float | None) -> str | None:
    notes = []
    if latency:
        notes.append(f"latency: {len(latency['seconds'])} prompts, one at a time, after warm-up")
    if forward is not None:
        notes.append("a prefix that several answers share counts once, for the answer that computed it")
    return "; ".join(notes) or None


def _latency(latency: Mapping[str, Any] | None) -> Estimate | None:
    if not latency:
        return None
    seconds = latency["seconds"]
    error = statistics.stdev(seconds) / len(seconds) ** 0.5 if len(seconds) > 1 else None
    return Estimate(
        value=statistics.fmean(seconds),
        standard_error=error,
        reason="a mean over few prompts; its standard error stands beside it",
    )


def _mean(rows: Sequence[Measurement], key: str) -> float | None:
    values = [row.metadata[key] for row in rows if row.metadata.get(key) is not None]
    return statistics.fmean(values) if values else None


def _mean_count(rows: Sequence[Measurement], key: str) -> float | None:
    values = [
        row.metadata["costs"][key] for row in rows if row.metadata.get("costs", {}).get(key) is not None
    ]
    return statistics.fmean(values) if values else None
