"""Trivet: measure how helpful, honest and harmless a language model is, improve it, and see the price.

Nothing heavy is imported here; ``from trivet.systems import System`` brings the engine with it.
"""

from importlib.metadata import version as _version

__version__ = _version("trivet")

__all__ = ["__version__"]
