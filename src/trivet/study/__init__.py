"""Plan, run, store, report."""
