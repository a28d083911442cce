"""Reading, checking and converting data sets; the prompt suites that ship."""
