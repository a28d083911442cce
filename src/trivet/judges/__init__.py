"""Scoring an answer: rules, heads on hidden states, graders; calibration against labels."""

from trivet.judges.base import Judge as Judge
from trivet.judges.base import Verdict as Verdict
from trivet.judges.base import unscored as unscored
from trivet.judges.resolve import resolve as resolve
