"""Costs as multiples of plain greedy decoding."""

import numpy as np
import pytest

from trivet.study.costs import costs_of
from trivet.study.measurements import Measurement
from trivet.study.multipliers import bases_of
from trivet.study.results import Costs, SystemInfo


def system(
    name: str, model: str = "m", method: str = "sampling", temperature: float = 0.0, **more
) -> SystemInfo:
    spec = {"decode": {"method": method}, "sampling": {"temperature": temperature}, "guards": [], **more}
    return SystemInfo(name=name, identity=name, model=model, spec=spec)


def answers(name: str, counts: dict[str, list[int | None]], cluster: str | None = None) -> list[Measurement]:
    return [
        Measurement(
            name,
            "e",
            "e",
            sample,
            epoch,
            cluster or sample,
            1.0,
            metadata={"costs": {"forward_tokens": count}},
        )
        for sample, values in counts.items()
        for epoch, count in enumerate(values, 1)
    ]


def costs(rows, latencies=None, bases=None) -> dict[str, Costs]:
    bases = {"rain": "greedy", "greedy": "greedy"} if bases is None else bases
    return {entry.system: entry for entry in costs_of(rows, latencies or {}, {}, bases)}


def test_the_base_is_the_greedy_reference_else_another_plain_system_of_the_model():
    rain, greedy, warm = system("rain", method="rain"), system("greedy"), system("warm", temperature=1.0)
    prompted = system("prompted", system_prompt="Be brief.")
    assert bases_of([rain, prompted, greedy], "greedy")["rain"] == "greedy"
    assert bases_of([rain, prompted, greedy], "prompted")["rain"] == "prompted"
    assert bases_of([prompted, warm, greedy, rain], "rain")["rain"] == "greedy", "the same prompt first"
    assert bases_of([warm, rain], "rain") == {"warm": "warm", "rain": "warm"}
    assert bases_of([warm, prompted, rain], "warm")["rain"] == "prompted", "greedy first"


def test_another_model_a_guard_and_a_log_are_no_base():
    rain = system("rain", method="rain")
    guarded, other = system("guarded", guards=[{"guard": "g"}]), system("other", model="n")
    log = SystemInfo(name="log", identity="log", model="m", spec={"logs": {}})
    merged = system("merged", merge={"method": "linear"})
    assert bases_of([rain, guarded, other, log, merged], "rain")["rain"] is None
    [entry] = costs(answers("rain", {"a": [1]}), bases={"rain": None}).values()
    assert entry.multiplier.base is None and "plainly" in entry.multiplier.forward_tokens.reason


def test_the_ratio_is_of_means_over_the_prompts_that_both_answered():
    greedy = answers("greedy", {"a": [10, 30], "b": [40], "only greedy": [999], "c": [None]})
    rain = answers("rain", {"a": [60, 60], "b": [120], "only rain": [1], "c": [5]})
    found = costs(greedy + rain)
    entry = found["rain"].multiplier
    assert entry.n_prompts == 2
    assert entry.forward_tokens.value == pytest.approx((60 + 120) / (20 + 40))
    assert entry.seconds.value is None and "not measured" in entry.seconds.reason
    own = found["greedy"].multiplier
    assert own.forward_tokens.value == 1 and own.forward_tokens.interval is None
    assert "same on every prompt" in own.forward_tokens.reason
    one = costs(answers("greedy", {"a": [10], "b": [9]}, "k") + answers("rain", {"a": [20], "b": [9]}, "k"))
    assert "one cluster" in one["rain"].multiplier.forward_tokens.reason


def test_where_nothing_was_counted_there_is_no_ratio():
    found = costs(answers("greedy", {"a": [None]}) + answers("rain", {"a": [3]}))
    assert found["rain"].multiplier.forward_tokens.value is None
    assert costs(answers("rain", {"a": [3]}))["rain"].multiplier.n_prompts == 0


def test_the_interval_covers_the_true_ratio():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        base = random.gamma(4, 10, 40) + 1
        ours = 3 * base * random.gamma(5, 0.2, 40)
        rows = answers("greedy", {str(i): [v] for i, v in enumerate(base)})
        rows += answers("rain", {str(i): [v] for i, v in enumerate(ours)})
        interval = costs(rows)["rain"].multiplier.forward_tokens.interval
        hits += interval.low <= 3 <= interval.high
    assert 0.9 <= hits / 300 <= 0.99


def test_times_are_paired_by_prompt_and_refused_where_they_are_not_the_same():
    rows = answers("greedy", {"a": [1]}) + answers("rain", {"a": [2]})
    latency = {"first_token": [], "peak_memory_bytes": None}
    times = {"greedy": {**latency, "seconds": [1.0, 2.0]}, "rain": {**latency, "seconds": [4.0, 5.0]}}
    seconds = costs(rows, times)["rain"].multiplier.seconds
    assert seconds.value == pytest.approx(3) and seconds.interval.low > 0
    times["rain"]["seconds"] = [4.0]
    assert "same prompts" in costs(rows, times)["rain"].multiplier.seconds.reason


def test_without_bases_nothing_is_compared():
    assert [entry.multiplier for entry in costs_of(answers("a", {"x": [1]}), {}, {})] == [None]
