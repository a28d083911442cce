"""What the server counts, in Prometheus' text format (version 0.0.4)."""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trivet.systems.answer import Answer

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_HELP = {
    "trivet_requests_total": ("counter", "Requests that have ended, by endpoint, model and status."),
    "trivet_request_duration_seconds": ("histogram", "Time from a request to the end of its response."),
    "trivet_time_to_first_token_seconds": (
        "histogram",
        "Time from a streamed request to the first piece of its text.",
    ),
    "trivet_prompt_tokens_total": ("counter", "Tokens of the prompts of finished answers."),
    "trivet_completion_tokens_total": ("counter", "Tokens of finished answers."),
    "trivet_forward_tokens_total": ("counter", "Token positions that went through the model for them."),
    "trivet_judge_calls_total": ("counter", "Judge calls of finished answers."),
    "trivet_requests_in_progress": ("gauge", "Requests for answers whose response has not ended."),
    "trivet_queue_length": ("gauge", "Answers that run or wait."),
    "trivet_queue_size": ("gauge", "Answers that may run or wait at once."),
}
CLIENT_LEFT = "499"
"""The status of a request whose client left before its response, as in nginx's logs."""

Labels = tuple[tuple[str, str], ...]


@dataclass
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    total: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(_SECONDS, value)] += 1
        self.total += value


class Metrics:
    """Counters, gauges and histograms; used from the event loop's thread alone."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Labels, float]] = defaultdict(dict)
        self._histograms: dict[str, dict[Labels, _Histogram]] = defaultdict(dict)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raise (or lower) a value."""
        key = tuple(labels.items())
        self._values[name][key] = self._values[name].get(key, 0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._values[name][tuple(labels.items())] = value

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a time to a histogram."""
        self._histograms[name].setdefault(tuple(labels.items()), _Histogram()).observe(seconds)

    def count_answers(self, answers: Sequence[Answer], usage: Mapping[str, int], model: str) -> None:
        """Count the tokens and judge calls of a request's finished answers."""
        self.add("trivet_prompt_tokens_total", usage["prompt_tokens"], model=model)
        self.add("trivet_completion_tokens_total", usage["completion_tokens"], model=model)
        forward = sum(answer.usage.forward_tokens for answer in answers)
        self.add("trivet_forward_tokens_total", forward, model=model)
        calls = sum(answer.usage.judge_calls for answer in answers)
        self.add("trivet_judge_calls_total", calls, model=model)

    def text(self) -> str:
        """Everything, in Prometheus' text format."""
        lines = []
        for name, (kind, explanation) in _HELP.items():
            lines += [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]
            for labels, value in sorted(self._values[name].items()):
                lines.append(f"{name}{_labels(labels)} {value:.17g}")
            for labels, histogram in sorted(self._histograms[name].items(), key=lambda pair: pair[0]):
                lines += _histogram_lines(name, labels, histogram)
        return "\n".join(lines) + "\n"


def _histogram_lines(name: str, labels: Labels, histogram: _Histogram) -> list[str]:
    lines, below = [], 0
    for edge, count in zip([f"{edge:g}" for edge in _SECONDS] + ["+Inf"], histogram.counts):
        below += count
        lines.append(f"{name}_bucket{_labels((*labels, ('le', edge)))} {below}")
    lines.append(f"{name}_sum{_labels(labels)} {histogram.total:.17g}")
    lines.append(f"{name}_count{_labels(labels)} {below}")
    return lines


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@dataclass
class Record:
    """What is known of a request for the metrics. ``status`` replaces that of the response's headers: a
    stream that breaks off has begun with 200."""

    model: str = ""
    status: str | None = None


class MetricsMiddleware:
    """Counts requests and their times.

    Args:
        app: what it stands before.
        metrics: where it counts.
        endpoints: paths that are named; others are "other", so that clients cannot make up labels.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: frozenset[str]) -> None:
        self._app, self._metrics, self._endpoints = app, metrics, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it when it ends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope["trivet.record"] = Record()
        status, started = CLIENT_LEFT, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            record.status = record.status or "500"
            raise
        finally:
            path = scope["path"] if scope["path"] in self._endpoints else "other"
            model, taken = record.model, time.perf_counter() - started
            ended = record.status or status
            self._metrics.add("trivet_requests_total", endpoint=path, model=model, status=ended)
            self._metrics.observe("trivet_request_duration_seconds", taken, endpoint=path, model=model)
