"""Weights of several objectives: one vector gives one model, several give a front."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from trivet._validation import did_you_mean
from trivet.train.preference_method import PreferenceConfig
from trivet.train.settings import TrainConfig

Vector = list[float] | dict[str, float]


class VectorsConfig(TrainConfig):
    """Settings of every method that weighs objectives.

    One vector of weights makes ``OUT`` the checkpoint or adapter. A list of vectors makes ``OUT`` a front: a
    folder with one adapter for each (``w_0.2_0.8``) and ``front.json``.
    """

    weights: Vector | list[Vector] = Field(
        description="a vector or a list of vectors: a number for each objective, by name or in their order "
        "(that of `data` first, where it has one)"
    )
    warm_start: bool = Field(
        False, description="of a front: each weight starts from the adapter of the one before it"
    )
    top_layers: int | None = Field(
        None, ge=1, description="the adapter is on so many layers at the top only, by default on all"
    )

    @property
    def objectives(self) -> list[str]:
        """Names of all objectives, in order."""
        raise NotImplementedError

    @property
    def is_front(self) -> bool:
        """Whether a front was asked for, also one of a single point."""
        return isinstance(self.weights, list) and any(isinstance(one, list | dict) for one in self.weights)

    def vectors(self) -> list[tuple[float, ...]]:
        """Each vector of weights, in the order of ``objectives``."""
        given: Sequence[Any] = self.weights if self.is_front else [self.weights]  # type: ignore[assignment]
        names = self.objectives
        return [tuple(one[name] for name in names) if isinstance(one, dict) else tuple(one) for one in given]

    @model_validator(mode="after")
    def _check(self) -> "VectorsConfig":
        names = self.objectives
        again = next((name for name in names if names.count(name) > 1), None)
        if again:
            raise ValueError(f"objective: {again!r} is also the name of another one")
        given: Sequence[Any] = self.weights if self.is_front else [self.weights]  # type: ignore[assignment]
        if not given:
            raise ValueError("weights: no vector is given")
        for one in given:
            _check_names(one, names)
        for vector in self.vectors():
            self.check_vector(vector)
        folders = [point_name(vector) for vector in self.vectors()]
        twice = next((name for name in folders if folders.count(name) > 1), None)
        if twice:
            raise ValueError(f"weights: two vectors are {twice}, to six digits")
        if self.is_front and self.adapter is None:
            raise ValueError("adapter: a front is a set of adapters on one model; give the adapter's fields")
        if self.warm_start and not self.is_front:
            raise ValueError("warm_start: is for a list of weight vectors")
        if self.top_layers is not None:
            _check_top_layers(self.adapter)
        return self

    def check_vector(self, vector: tuple[float, ...]) -> None:
        """Refuse what is no weighting.

        Raises:
            ValueError: a weight is negative or not finite, or all are 0.
        """
        if any(not 0 <= weight < float("inf") for weight in vector):
            raise ValueError(f"weights: {list(vector)} must be finite and not negative")
        if not any(vector):
            raise ValueError("weights: all are 0")


class WeightsConfig(VectorsConfig, PreferenceConfig):
    """Settings of the methods that weigh objectives and learn one of them from pairs."""

    objective: str = Field("preference", min_length=1, description="what `data` was judged on")

    def others(self) -> Sequence[str]:
        """Names of the other objectives, in order."""
        raise NotImplementedError

    @property
    def objectives(self) -> list[str]:
        """Names of all objectives, that of ``data`` first."""
        return [self.objective, *self.others()]


def _check_names(vector: Any, names: Sequence[str]) -> None:
    if isinstance(vector, Mapping):
        for name in vector:
            if name not in names:
                raise ValueError(f"weights: unknown objective {name!r}; {did_you_mean(name, names)}")
        missing = [name for name in names if name not in vector]
        if missing:
            raise ValueError(f"weights: that of {missing[0]!r} is missing")
    elif not isinstance(vector, list) or len(vector) != len(names):
        raise ValueError(
            f"weights: {vector!r:.80} must have {len(names)} numbers, those of {', '.join(names)}"
        )


def _check_top_layers(adapter: Mapping[str, Any] | None) -> None:
    if adapter is None:
        raise ValueError("top_layers: is about an adapter; give the adapter's fields")
    if "layers_to_transform" in adapter:
        raise ValueError("top_layers: the adapter has layers_to_transform already; give one of the two")


def point_name(vector: Sequence[float]) -> str:
    """The folder of a point of a front: ``w_0.2_0.8``."""
    return "_".join(["w", *(f"{weight:g}" for weight in vector)])
