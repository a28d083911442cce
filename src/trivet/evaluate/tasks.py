"""All evaluations of this room: what ``inspect eval trivet/NAME`` finds, once this file is imported."""

from trivet.evaluate.capability import capability
from trivet.evaluate.capability_ll import capability_ll
from trivet.evaluate.harmless import harmless
from trivet.evaluate.helpful import helpful
from trivet.evaluate.honest import honest
from trivet.evaluate.over_refusal import over_refusal
from trivet.evaluate.prompts import prompts

__all__ = ["capability", "capability_ll", "harmless", "helpful", "honest", "over_refusal", "prompts"]
