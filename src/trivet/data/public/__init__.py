"""Loaders of public data sets: from a local copy, or from the Hugging Face hub at a pinned revision.

>>> from trivet.data.public import load_public
>>> load_public("gsm8k", "grade-school-math/data").rows[0]["answers"]      # doctest: +SKIP
['18']

Every loader gives rows of one kind (``trivet.data.rows``), so that a set stands wherever a suite of that kind
does: ``dataset: harmbench:/data/harmbench`` in an evaluation.
"""

from trivet.data.public._load import PublicSet, is_public, load_public, load_reference
from trivet.data.public._registry import Hub, PublicSource, find, public_names

__all__ = [
    "Hub",
    "PublicSet",
    "PublicSource",
    "find",
    "is_public",
    "load_public",
    "load_reference",
    "public_names",
]
