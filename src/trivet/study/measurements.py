"""One scored answer: what the scored logs of a study are read into, and all that its statistics see."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """The score of one answer of one system.

    ``evaluation`` is the entry of the study's ``evaluations``, ``component`` a part of it (``instructions``
    and ``questions`` in ``helpful``, ``answerable`` and ``unanswerable`` in ``honest``; elsewhere the
    evaluation's own name). ``cluster`` is the unit of inference: rows of one cluster are not independent
    (by default the sample id, so that epochs of one prompt form a cluster). ``value`` ``None`` means "could
    not score" and ``reason`` says why. ``label`` is the category where there is one: ``correct``, ``wrong``,
    ``idk`` in ``honest``; ``full_refusal``, ``partial_refusal``, ``compliance``, ``off_topic`` in
    ``harmless`` and ``over_refusal``.
    """

    system: str
    evaluation: str
    component: str
    sample_id: str
    epoch: int
    cluster: str
    value: float | None
    label: str | None = None
    reason: str | None = None
    judge: str | None = None
    category: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
