"""Decoding methods: each part checks equal choices first, then measures cost and speed.

A part is a module of this package with ``run()``, which gives the figures, and ``LIMITS``; it can also be run
by itself, with options of its own (``python -m benchmarks decode_deal --help``).

``--parts deal,rain,eft`` runs some of them.
"""

import argparse
import importlib
import sys

from benchmarks.common import report

PARTS = {
    "deal": "benchmarks.decode_deal",
    "rain": "benchmarks.decode_rain",
    "eft": "benchmarks.decode_eft",
}


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks decode", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    chosen = parser.parse_args(arguments).parts.split(",")
    unknown = set(chosen) - set(PARTS)
    if unknown:
        sys.exit(f"unknown part {unknown.pop()!r}; there are {', '.join(PARTS)}")
    for name in chosen:
        part = importlib.import_module(PARTS[name])
        report(f"decode_{name}", part.run(), part.LIMITS)
