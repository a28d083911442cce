"""The command line: one thin module a verb, imported only when that verb is called."""
