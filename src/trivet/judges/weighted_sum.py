"""Several judges as one: r(x, y) = Σ_i w_i r_i(x, y).

It is what best-of-n maximises in the comparison of "Beyond One-Preference-Fits-All Alignment:
Multi-Objective Direct Preference Optimization" (arXiv 2310.03708), with one reward for each objective and a
vector of weights. The scores are added in the judges' own units, so the weights carry the exchange rate
between them. It costs what its judges cost.

::

    judge:
      judge: weighted_sum
      of:
        harmless: {judge: harmlessness_head, weight: 0.8}
        refusal: {judge: refusal, weight: -0.2}
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from trivet._files import canonical_json, sha256_text
from trivet._validation import Config as BaseConfig
from trivet.judges.base import Judge, Verdict, unscored
from trivet.judges.resolve import resolve
from trivet.models.operations import Chat

VERSION = 1


class Weighted(BaseConfig):
    """A judge (a name, a file or its settings) and its weight; a negative one asks for less."""

    judge: str | dict[str, Any]
    weight: float = Field(allow_inf_nan=False)


class Config(BaseConfig):
    """``of``: by a name of yours, the judges and their weights. One with weight 0 is not asked."""

    of: dict[str, Weighted] = Field(min_length=1)

    @field_validator("of")
    @classmethod
    def _some(cls, of: dict[str, Weighted]) -> dict[str, Weighted]:
        if not any(part.weight for part in of.values()):
            raise ValueError("all weights are 0")
        return of


def build(config: Config) -> "WeightedSumJudge":
    """The judge.

    Raises:
        ConfigError, JudgeError: one of its judges is not there.
    """
    asked = {name: part for name, part in config.of.items() if part.weight}
    return WeightedSumJudge({name: (resolve(part.judge), part.weight) for name, part in asked.items()})


class WeightedSumJudge:
    """``value`` is the weighted sum; ``metadata["parts"]`` holds each judge's score.

    An answer that one of the judges could not score has no sum.
    """

    name = "weighted_sum"

    def __init__(self, judges: Mapping[str, tuple[Judge, float]]) -> None:
        self._judges = dict(judges)

    @property
    def parts(self) -> tuple[Judge, ...]:
        """The judges that are asked."""
        return tuple(judge for judge, _ in self._judges.values())

    @property
    def objective(self) -> str:
        """The objectives with their weights."""
        return " + ".join(f"{weight:g} {judge.objective}" for judge, weight in self._judges.values())

    @property
    def identity(self) -> str:
        """Digest of the judges' identities and weights."""
        parts = sorted((name, judge.identity, weight) for name, (judge, weight) in self._judges.items())
        return sha256_text(canonical_json([self.name, VERSION, parts]))

    @property
    def quality(self) -> dict[str, Any]:
        """Empty: a sum is measured with ``trivet judges calibrate``."""
        return {}

    @property
    def training_prompts(self) -> frozenset[str]:
        """Those of its judges."""
        return frozenset[str]().union(*(judge.training_prompts for judge in self.parts))

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        """Score the last assistant message of each chat."""
        found = {name: judge.score(chats) for name, (judge, _) in self._judges.items()}
        return [self._sum({name: verdicts[n] for name, verdicts in found.items()}) for n in range(len(chats))]

    def _sum(self, verdicts: Mapping[str, Verdict]) -> Verdict:
        total = 0.0
        for name, verdict in verdicts.items():
            if verdict.value is None:
                return unscored(f"{name}: {verdict.reason}")
            total += self._judges[name][1] * verdict.value
        if total != total:  # infinite scores of opposite signs
            return unscored("the sum is not a number")
        return Verdict(total, metadata={"parts": {name: one.value for name, one in verdicts.items()}})
