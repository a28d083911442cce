"""Merging: one checkpoint from several, without training.

``merge_checkpoints`` runs a recipe; ``merge_tensors`` applies a method to tensors in memory.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivet.merge.checkpoint import Merged, merge_checkpoints
    from trivet.merge.memory import merge_tensors

_PLACES = {"merge_checkpoints": "checkpoint", "Merged": "checkpoint", "merge_tensors": "memory"}

__all__ = ["Merged", "merge_checkpoints", "merge_tensors"]


def __getattr__(name: str) -> Any:
    """Public names, imported when they are used: listing methods must not import torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
