"""What the recipes of one preference mixture share: cleaning, accounts, proportions, the finished set.

Nothing depends on the order of the sets or of their rows: pairs are taken in the order of a digest of the
seed and the pair. Every pair that goes in comes out or is counted under a reason.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

from datasets import Dataset, Features, List, Value
from pydantic import Field, field_validator

from trivet import _validation
from trivet._files import canonical_json, sha256_text
from trivet._validation import did_you_mean
from trivet.errors import ConfigError, DataError
from trivet.synthesize._apportionment import largest_remainder, largest_total, shares_of
from trivet.synthesize._datasheet import Datasheet, json_line
from trivet.synthesize._pairs import Pair, PreferenceSet, answer_text, is_blank, preference_set

EMPTY = "empty"
SAME_ANSWERS = "chosen equals rejected"
DUPLICATE = "duplicate"
UNSCORED = "unscored"
BELOW_MARGIN = "below margin"
CONFLICT = "conflict"
BEYOND_PROPORTION = "beyond proportion"

Sets: TypeAlias = Sequence[PreferenceSet | Dataset]
"""What a recipe mixes: data sets in the columns of ``trivet.synthesize._pairs``."""

Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class SeededConfig(_validation.Config):
    """What every recipe needs."""

    seed: int = Field(0, ge=0, description="of every draw and of the order of the rows")


class ProportionConfig(SeededConfig):
    """How much of each dimension goes into the mixture."""

    proportions: dict[str, Weight] | None = Field(
        None,
        description="weight of each dimension, divided by their sum; by default all dimensions are equal",
    )
    total: int | None = Field(
        None, ge=1, le=10**9, description="pairs in the mixture; by default as many as the proportions allow"
    )

    @field_validator("proportions")
    @classmethod
    def _not_all_zero(cls, proportions: dict[str, float] | None) -> dict[str, float] | None:
        if proportions is not None and not any(proportions.values()):
            raise ValueError("one dimension at least has a weight above 0")
        return proportions


@dataclass(frozen=True)
class Mixture:
    """One preference set in TRL's format, and what is known of how it was made.

    ``dataset`` has the columns ``prompt``, ``chosen``, ``rejected``, ``dimension`` and ``source``, and
    ``weight`` where the recipe gives weights. ``prompt`` and the answers are texts where those of all pairs
    were, else lists of messages.
    """

    dataset: Dataset
    datasheet: Datasheet


@dataclass
class Ledger:
    """Accounts of one mixture: pairs read and dropped, by dimension and source."""

    read: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, reason: str, pairs: Iterable[Pair]) -> None:
        """Count ``pairs`` as dropped for ``reason``."""
        counted = Counter((pair.dimension, pair.source) for pair in pairs)
        if counted:
            self.dropped.setdefault(reason, Counter()).update(counted)

    def dimensions(self) -> list[str]:
        """The dimensions that were read, in alphabetical order."""
        return sorted({dimension for dimension, _ in self.read})

    def why(self, dimension: str) -> str:
        """In words, why pairs of ``dimension`` were dropped."""
        reasons = {
            reason: sum(n for (of, _), n in counted.items() if of == dimension)
            for reason, counted in self.dropped.items()
        }
        return ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n) or "none was read"


def draw(seed: int, purpose: str, pair: Pair) -> str:
    """A number for ``pair``, in hexadecimal, as good as random; another for each seed and purpose."""
    return sha256_text(f"{seed}\0{purpose}\0{pair.identity}")


def clean(sets: Sets, seed: int) -> tuple[list[Pair], Ledger]:
    """Every usable pair of ``sets`` once, in an order that does not depend on theirs, and the accounts.

    A pair is dropped where its prompt or an answer is empty, where both answers are the same, or where it
    repeats another one (``Pair.key``), whatever their dimensions. Of repeated pairs the one with most scores
    is kept, between equals a drawn one.

    Raises:
        DataError: ``sets`` is not a list of data sets or is empty, a row breaks the format, or no pair can be
            used.
    """
    if isinstance(sets, Dataset | PreferenceSet | Mapping | str) or not sets:
        raise DataError("a list of one data set or more is needed", where="sets", hint="write [data_set]")
    ledger = Ledger()
    usable: dict[str, list[Pair]] = defaultdict(list)
    for number, given in enumerate(sets, 1):
        checked = given if isinstance(given, PreferenceSet) else _unnamed(given, number)
        ledger.inputs.append(_input(checked))
        for pair in checked.pairs:
            ledger.read[pair.dimension, pair.source] += 1
            reason = _unusable(pair)
            if reason is None:
                usable[pair.key].append(pair)
            else:
                ledger.drop(reason, [pair])
    kept = []
    for same in usable.values():
        same.sort(key=lambda pair: (-len(pair.margins), draw(seed, "duplicates", pair)))
        kept.append(same[0])
        ledger.drop(DUPLICATE, same[1:])
    if not kept:
        reasons = ", ".join(f"{counted.total()} {reason}" for reason, counted in ledger.dropped.items())
        raise DataError(f"no pair can be used ({reasons})", where="sets", hint="give pairs that differ")
    ledger.inputs.sort(key=canonical_json)
    return sorted(kept, key=lambda pair: pair.identity), ledger


def _unnamed(rows: Dataset, number: int) -> PreferenceSet:
    try:
        return preference_set(rows)
    except DataError as error:
        place = f"set {number}" + (f", {error.where}" if error.where else "")
        raise DataError(error.message, where=place, hint=error.hint) from None


def _input(checked: PreferenceSet) -> dict[str, Any]:
    content = sha256_text("".join(sorted(pair.identity for pair in checked.pairs)))
    about = {"name": checked.name or None, "pairs": len(checked.pairs), "pairs_sha256": content}
    return {**about, **checked.provenance}


def _unusable(pair: Pair) -> str | None:
    if is_blank(pair.prompt) or is_blank(pair.chosen) or is_blank(pair.rejected):
        return EMPTY
    return SAME_ANSWERS if answer_text(pair.chosen) == answer_text(pair.rejected) else None


def by_dimension(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """The pairs of each dimension in their order, dimensions in alphabetical order."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.dimension].append(pair)
    return {dimension: groups[dimension] for dimension in sorted(groups)}


def in_proportion(
    ranked: Mapping[str, Sequence[Pair]], config: ProportionConfig, ledger: Ledger
) -> list[Pair]:
    """The first pairs of each dimension, as many as its proportion gives it; the rest is dropped.

    Args:
        ranked: pairs of each dimension that has some left, those to be taken first in front.
        config: ``total`` is met exactly, or refused.

    Raises:
        DataError: a dimension that is asked for has no pair left, or fewer than its part of ``total``.
        ConfigError: ``proportions`` names other dimensions than there are.
    """
    ranked = {dimension: ranked.get(dimension, []) for dimension in ledger.dimensions()}
    shares = shares_of(_weights(config, ranked))
    for dimension, share in shares.items():
        if share and not ranked[dimension]:
            raise DataError(
                f"no pair of the dimension {dimension!r} is left ({ledger.why(dimension)})",
                hint="loosen the selection, give more pairs, or give the dimension a proportion of 0",
            )
    available = {dimension: len(pairs) for dimension, pairs in ranked.items()}
    most = largest_total(shares, available)
    numbers = largest_remainder(shares, config.total or most)
    for dimension, number in numbers.items():
        if number > available[dimension]:
            raise DataError(
                f"total {config.total} asks for {number} pairs of {dimension!r}, and "
                f"{available[dimension]} are left",
                hint=f"the largest total that can be had is {most}",
            )
    for dimension, pairs in ranked.items():
        ledger.drop(BEYOND_PROPORTION, pairs[numbers[dimension] :])
    return [pair for dimension, pairs in ranked.items() for pair in pairs[: numbers[dimension]]]


def _weights(config: ProportionConfig, ranked: Mapping[str, object]) -> dict[str, float]:
    if config.proportions is None:
        return dict.fromkeys(ranked, 1.0)
    for dimension in config.proportions:
        if dimension not in ranked:
            hint = did_you_mean(dimension, ranked)
            raise ConfigError(f"no pair has the dimension {dimension!r}", where="proportions", hint=hint)
    for dimension in ranked:
        if dimension not in config.proportions:
            raise ConfigError(
                f"the dimension {dimension!r} has no proportion",
                where="proportions",
                hint="a proportion of 0 leaves its pairs out",
            )
    return config.proportions


def finish(
    kept: Sequence[Pair],
    ledger: Ledger,
    config: SeededConfig,
    *,
    method: str,
    version: int,
    measures: Mapping[str, Any],
    weights: Mapping[str, float] | None = None,
) -> Mixture:
    """The mixture of the pairs ``kept``, in an order drawn from the seed, with its datasheet.

    Args:
        kept: one pair or more.
        ledger: their accounts.
        config: the recipe's settings.
        method: the recipe's name in the catalogue, with its ``version``.
        measures: what the recipe measured, as plain JSON.
        weights: of each pair by its identity; ``None``: no such column.
    """
    ordered = sorted(kept, key=lambda pair: draw(config.seed, "order", pair))
    conversational = any(pair.conversational for pair in ordered)
    rows = [_row(pair, conversational) for pair in ordered]
    if weights is not None:
        rows = [{**row, "weight": weights[pair.identity]} for row, pair in zip(rows, ordered, strict=True)]
    datasheet = Datasheet(
        method=method,
        version=version,
        settings=config.model_dump(mode="json"),
        inputs=ledger.inputs,
        format="conversational" if conversational else "standard",
        rows=len(rows),
        rows_sha256=sha256_text("".join(map(json_line, rows))),
        read=_nested(ledger.read),
        dropped={reason: _nested(ledger.dropped[reason]) for reason in sorted(ledger.dropped)},
        kept=_nested(Counter((pair.dimension, pair.source) for pair in ordered)),
        measures=dict(measures),
    )
    return Mixture(
        Dataset.from_list(rows, features=_features(conversational, weights is not None)), datasheet
    )


def _row(pair: Pair, conversational: bool) -> dict[str, Any]:
    parts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    labels = {"dimension": pair.dimension, "source": pair.source}
    if conversational:
        return {**parts, **labels}
    return {**{name: messages[0]["content"] for name, messages in parts.items()}, **labels}


def _features(conversational: bool, weighted: bool) -> Features:
    content = (
        List({"role": Value("string"), "content": Value("string")}) if conversational else Value("string")
    )
    columns = dict.fromkeys(("prompt", "chosen", "rejected"), content)
    columns |= dict.fromkeys(("dimension", "source"), Value("string"))
    return Features({**columns, "weight": Value("float64")} if weighted else columns)


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for dimension, source in sorted(counts):
        nested.setdefault(dimension, {})[source] = counts[dimension, source]
    return nested
