"""Trivet: measure how helpful, honest and harmless a language model is, improve it, and see the price.

Nothing heavy is imported here; ``from trivet.systems import System`` brings the engine with it.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
