"""Scoring an answer: rules, heads on hidden states, graders; calibration against labels."""
