"""What exists: the registry of methods and the papers they come from."""

from trivet.catalogue.registry import Method, find, method, names, skipped

__all__ = ["Method", "find", "method", "names", "skipped"]
