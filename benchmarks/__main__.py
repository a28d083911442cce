"""``python -m benchmarks [NAME [OPTION…]]`` runs every benchmark, or one of them.

The parts of another benchmark (``decode_deal`` of ``decode``) run by themselves only where they are named. A
benchmark is a module of this package with ``main(arguments)``. It checks equal output first, prints what it
achieved beside the limit, and ends with one line of JSON.
"""

import importlib
import pkgutil
import sys
from pathlib import Path

_NOT_BENCHMARKS = {"__main__", "common"}


def names() -> list[str]:
    """Every benchmark of this package."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in modules if module.name not in _NOT_BENCHMARKS)


def main() -> None:
    """Run the benchmarks that the command line names."""
    known = names()
    parts = {name for name in known if name.rpartition("_")[0] in known}
    chosen = sys.argv[1:2] or [name for name in known if name not in parts]
    unknown = set(chosen) - set(known)
    if unknown:
        sys.exit(f"unknown benchmark {unknown.pop()!r}; there are {', '.join(known)}")
    for name in chosen:
        importlib.import_module(f"benchmarks.{name}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
