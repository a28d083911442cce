"""One file a benchmark: Inspect tasks and scorers."""
