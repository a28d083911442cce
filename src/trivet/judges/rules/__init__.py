"""Verifiable instructions: rules that decide from the text alone whether an answer did what was asked."""

from trivet.judges.rules import form, lengths, wording  # noqa: F401 - importing a file registers its rules
from trivet.judges.rules.base import Rule, check, parse_rule, parse_rules

__all__ = ["Rule", "check", "parse_rule", "parse_rules"]
