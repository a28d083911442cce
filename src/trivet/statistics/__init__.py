"""Intervals, paired tests, bounds, bootstrap, fronts."""
