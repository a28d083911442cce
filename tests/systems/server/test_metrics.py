"""Prometheus' text format, and what is counted."""

import re
from pathlib import Path

import httpx
import pytest
from tests.systems.server.conftest import Running, Start, user

from trivet.systems import System
from trivet.systems.server.metrics import Metrics

CHAT = "/v1/chat/completions"
LINE = re.compile(r'^[a-z_]+(\{([a-z_]+="([^"\\\n]|\\["\\n])*",?)+\})? [0-9.e+-]+$')


def parsed(text: str) -> dict[str, float]:
    """Values by name and labels; every line must be well-formed, and announced by HELP and TYPE."""
    values, announced = {}, set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            announced.add(line.split()[2])
        elif not line.startswith("# HELP "):
            assert LINE.match(line), line
            key, value = line.rsplit(" ", 1)
            assert re.sub(r"_(bucket|sum|count)$", "", key.split("{")[0]) in announced
            values[key] = float(value)
    return values


@pytest.fixture(scope="module")
def running(start: Start, tiny: System) -> Running:
    return start(tiny)


def test_requests_tokens_and_times_are_counted(running: Running) -> None:
    asked = {"model": "tiny", "messages": user(), "max_tokens": 5, "logit_bias": {"2": -100}}
    plain = running.post(CHAT, json=asked).json()
    running.post(CHAT, json={**asked, "stream": True})
    running.post(CHAT, json={**asked, "model": "nobody"})
    httpx.get(f"{running.root}/made/up/{'x' * 50}")
    values = parsed(httpx.get(f"{running.root}/metrics").text)
    total, labels = "trivet_requests_total", 'endpoint="/v1/chat/completions",model="tiny"'
    assert values[f'{total}{{{labels},status="200"}}'] == 2
    assert values[f'{total}{{endpoint="/v1/chat/completions",model="",status="404"}}'] == 1
    assert values[f'{total}{{endpoint="other",model="",status="404"}}'] == 1
    assert values['trivet_completion_tokens_total{model="tiny"}'] == 10
    assert values['trivet_prompt_tokens_total{model="tiny"}'] == 2 * plain["usage"]["prompt_tokens"]
    assert values['trivet_time_to_first_token_seconds_count{model="tiny"}'] == 1
    assert values[f"trivet_request_duration_seconds_count{{{labels}}}"] == 2
    assert values["trivet_requests_in_progress"] == 0
    assert values['trivet_queue_length{model="tiny"}'] == 0
    assert values['trivet_queue_size{model="tiny"}'] == 256


def test_a_histograms_buckets_add_up() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.01, 0.02, 3.0, 1000.0):
        metrics.observe("trivet_time_to_first_token_seconds", seconds, model='a"b\\c\n')
    values = parsed(metrics.text())
    name, label = "trivet_time_to_first_token_seconds", 'model="a\\"b\\\\c\\n"'
    counts = [value for key, value in values.items() if key.startswith(f"{name}_bucket")]
    assert counts == sorted(counts) and counts[0] == 2 and counts[-2] == 4 and counts[-1] == 5
    assert values[f'{name}_bucket{{{label},le="0.025"}}'] == 3
    assert values[f"{name}_count{{{label}}}"] == 5
    assert values[f"{name}_sum{{{label}}}"] == pytest.approx(1003.031)


def test_two_systems_of_one_name_are_refused(tiny_model_folder: Path, start: Start) -> None:
    from trivet.errors import ConfigError

    one = {"model": str(tiny_model_folder), "name": "same"}
    with pytest.raises(ConfigError, match="two systems have the name 'same'"):
        start(System.load(one), System.load({**one, "system_prompt": "Be kind."}))
