"""One file a decoding method (a program)."""
