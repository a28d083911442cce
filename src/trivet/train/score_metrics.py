"""How good a reward or cost model is on pairs it has not seen, with intervals."""

from collections.abc import Sequence
from typing import Any

import torch

from trivet.judges.calibration import estimate_json, event_json
from trivet.statistics.agreement import confusion
from trivet.statistics.interval import Estimated
from trivet.statistics.means import clustered_mean
from trivet.train.scored_pairs import ScoredPair

CATEGORIES = 30
"""How many categories are listed, the most frequent first."""


def ranking(right: torch.Tensor, clusters: Sequence[str], pairs: Sequence[ScoredPair]) -> dict[str, Any]:
    """Share of pairs ranked rightly, of all and by category.

    The interval is Wilson's; where a prompt has several pairs, with the effective number of them.

    Args:
        right: [pairs], boolean.
        clusters: by pair, what its prompt is.
    """
    values = right.float().tolist()
    found: dict[str, Any] = {"accuracy": estimate_json(clustered_mean(values, clusters))}
    names = [pair.category for pair in pairs if pair.category is not None]
    kinds = sorted(set(names), key=lambda name: (-names.count(name), name))[:CATEGORIES]
    if len(kinds) > 1:
        found["by_category"] = {
            name: estimate_json(
                clustered_mean(
                    [value for value, pair in zip(values, pairs, strict=True) if pair.category == name],
                    [cluster for cluster, pair in zip(clusters, pairs, strict=True) if pair.category == name],
                )
            )
            for name in kinds
        }
    return found


def signs(scores: torch.Tensor, clusters: Sequence[str], pairs: Sequence[ScoredPair]) -> dict[str, Any]:
    """How often the sign of a cost is right, over the labelled answers; empty where there are none.

    Args:
        scores: [pairs, 2].
    """
    labelled = [
        (sign > 0, bool(score > 0), cluster)
        for pair, row, cluster in zip(pairs, scores.tolist(), clusters, strict=True)
        for sign, score in zip(pair.signs, row, strict=True)
        if sign
    ]
    if not labelled:
        return {}
    truth, verdicts, owners = zip(*labelled, strict=True)
    right: Estimated = clustered_mean([float(a == b) for a, b in zip(truth, verdicts, strict=True)], owners)
    return {
        "sign_accuracy": estimate_json(right),
        "clusters": len(set(owners)),
        "events": {"unsafe": event_json(confusion(truth, verdicts))},
    }


def metrics(quality: dict[str, Any], loss: float) -> dict[str, Any]:
    """The figures for the model card, by name."""
    found: dict[str, Any] = {"held-out pairs": quality["n"], "held-out loss": loss}
    named = {"held-out accuracy": quality["accuracy"]}
    named |= {f"held-out accuracy, {name}": one for name, one in quality.get("by_category", {}).items()}
    if "sign_accuracy" in quality:
        named["held-out accuracy of the sign"] = quality["sign_accuracy"]
        for name in ("sensitivity", "specificity"):
            named[f"{name} for unsafe answers"] = quality["events"]["unsafe"][name]
    for name, one in named.items():
        if one["value"] is not None:
            found[name] = one["value"]
            found[f"{name}, 95 % interval"] = [one["low"], one["high"]]
            found[f"{name}, n"] = one["n"]
    return found
