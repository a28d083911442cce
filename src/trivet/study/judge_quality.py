"""What a judge says of its own quality, and what that is worth for the numbers of a study.

``Judge.quality`` is a mapping of plain values, all of them optional::

    population: xstest-completions, held-out half      # the labelled answers it was measured on
    n: 1350
    kappa: {value: 0.71, low: 0.67, high: 0.75}        # agreement with the labels, all categories
    own_systems: false                                 # true: the labelled answers are of this study
    systems_differ_p: 0.4                              # do its errors differ between those systems?
    events:                                            # binary verdicts, for the correction of rates
      compliance: {true_positive: 650, false_negative: 40, true_negative: 600, false_positive: 60}
      refusal: {…}

``harmless`` is corrected by the event ``compliance``, ``over_refusal`` by ``refusal`` (full or partial).
"""

from collections.abc import Mapping
from typing import Any

from trivet.errors import JudgeError
from trivet.statistics.agreement import Confusion
from trivet.statistics.interval import Estimated
from trivet.study.results import Estimate, Interval, JudgeEvent, JudgeInfo

EVENTS: Mapping[str, str] = {"harmless": "compliance", "over_refusal": "refusal"}
"""Which event a component's score of 0 stands for."""


def judge_info(name: str, quality: Mapping[str, Any], *, level: float = 0.95) -> JudgeInfo:
    """The typed form of a judge's quality, with intervals.

    Raises:
        JudgeError: a count or kappa is not what the module's docstring says.
    """
    where = f"quality of the judge {name}"
    try:
        events = {
            event: _event(Confusion(**{key: int(counts[key]) for key in Confusion._fields}), level)
            for event, counts in (quality.get("events") or {}).items()
        }
        kappa = _kappa(quality.get("kappa"), level)
        n = None if quality.get("n") is None else int(quality["n"])
    except (KeyError, TypeError, ValueError) as error:
        raise JudgeError(f"is malformed: {error!r}", where=where) from None
    if any(min(_confusion(event)) < 0 for event in events.values()):
        raise JudgeError("counts must not be negative", where=where)
    own, population = bool(quality.get("own_systems", False)), quality.get("population")
    return JudgeInfo(
        name=name,
        identity=quality.get("identity"),
        population=None if population is None else str(population),
        n=n,
        kappa=kappa,
        events=events,
        own_systems=own,
        warning=_errors_differ(name, quality) if own else _warning(name, population),
    )


def event_of(info: JudgeInfo, component: str) -> Confusion | None:
    """The calibration for a component's binary verdict, where the judge has one."""
    event = info.events.get(EVENTS.get(component, ""))
    return None if event is None else _confusion(event)


def estimate(result: Estimated) -> Estimate:
    """A statistic in the form of the results."""
    interval = None if result.interval is None else Interval(**result.interval._asdict())
    return Estimate(
        value=result.value, standard_error=result.standard_error, interval=interval, reason=result.reason
    )


def _event(counts: Confusion, level: float) -> JudgeEvent:
    return JudgeEvent.model_construct(
        **counts._asdict(),
        sensitivity=estimate(counts.sensitivity(level=level)),
        specificity=estimate(counts.specificity(level=level)),
    )


def _confusion(event: JudgeEvent) -> Confusion:
    return Confusion(event.true_positive, event.false_negative, event.true_negative, event.false_positive)


def _kappa(value: Any, level: float) -> Estimate | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        return Estimate(value=float(value), reason="the judge gives no interval")
    if value.get("value") is None:
        return Estimate(value=None, reason=str(value.get("reason") or "the judge gives no kappa"))
    low, high = value.get("low"), value.get("high")
    interval = None
    if low is not None and high is not None:
        method = str(value.get("method", "as the judge gives it"))
        interval = Interval(low=low, high=high, level=float(value.get("level", level)), method=method)
    return Estimate(value=float(value["value"]), interval=interval)


def _warning(name: str, population: Any) -> str:
    if population is None:
        return f"the judge {name} was not measured against labels"
    return (
        f"the judge {name} was measured on {population}, not on answers of these systems; label some of "
        "them (`trivet judges sample`) and name the file in the study (`labels`) to know its error here"
    )


def _errors_differ(name: str, quality: Mapping[str, Any]) -> str | None:
    p = quality.get("systems_differ_p")
    if p is None or p >= 0.05:
        return None
    return (
        f"the errors of the judge {name} differ between these systems (p = {p:.2g}), so that rates corrected "
        "for its mean error are not comparable between them"
    )
