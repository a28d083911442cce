"""``search.yaml``: which weights of a merge are looked at, and what measures them.

::

    recipe: three_experts.yaml        # or the recipe itself; the weights of its models are searched
    over: {weight: {grid: 0.25}}      # the simplex in steps; or {trials: 20, low: 0.0, high: 1.0}
    evaluations: [helpful, {task: honest, limit: 200}, harmless, over_refusal]
    limit: 24
    max_tokens: 64
    seed: 1
    reference: base                   # the recipe's base; or another of its models
"""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from trivet._validation import Config, did_you_mean, read_yaml, validate
from trivet.errors import ConfigError
from trivet.merge.recipe import Recipe, load_recipe, parse_recipe
from trivet.study.merge_proposals import MOST_POINTS, grid_size, steps_of
from trivet.study.spec import EvaluationEntry, Name, StudySpec, check_study

BASE = "base"
REFERENCE = "reference"
"""The name of the trial that is the reference alone."""


class Weights(Config):
    """How candidates are found: every point of a grid (``grid``), or TPE (``trials``)."""

    grid: float | None = Field(None, gt=0, le=1, description="step; weights are ≥ 0 and sum to 1")
    trials: int | None = Field(None, ge=1, le=MOST_POINTS, description="candidates, those of before included")
    low: float = Field(0.0, ge=-1000, le=1000, description="smallest weight of a model")
    high: float = Field(1.0, ge=-1000, le=1000, description="largest weight of a model")

    @model_validator(mode="after")
    def _one_way(self) -> "Weights":
        if (self.grid is None) == (self.trials is None):
            raise ValueError("give either `grid`, the step, or `trials`, the number of candidates")
        if self.grid is not None:
            if self.model_fields_set & {"low", "high"}:
                raise ValueError("`low` and `high` belong to `trials`; weights on the grid sum to 1")
            steps_of(self.grid)
        if not self.low < self.high:
            raise ValueError("`low` must be smaller than `high`")
        return self


class Over(Config):
    """What is searched."""

    weight: Weights


class SearchSpec(Config):
    """The content of ``search.yaml``."""

    name: Name | None = Field(None, description="of the search in the store; by default the file's name")
    recipe: str | dict[str, Any]
    over: Over
    evaluations: list[EvaluationEntry] = Field(min_length=1)
    epochs: int | None = Field(None, ge=1, description="answers a prompt")
    limit: int | None = Field(None, ge=1, description="prompts an evaluation, at most")
    max_tokens: int = Field(256, ge=1, description="tokens an answer, at most")
    seed: int = Field(0, ge=0, lt=2**31)
    reference: str = Field(BASE, description="`base`, or one of the recipe's models")

    @field_validator("evaluations", mode="before")
    @classmethod
    def _names_to_entries(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"task": entry} if isinstance(entry, str) else entry for entry in value]
        return value

    def study(self, path: Path) -> StudySpec:
        """The study whose settings measure every trial; its one system stands for the reference.

        Raises:
            ConfigError: ``path``, the search file, has no name that a search can have.
        """
        keys = ("evaluations", "epochs", "limit", "max_tokens", "seed")
        values: dict[str, Any] = {key: getattr(self, key) for key in keys}
        values |= {"name": self.name or path.stem, "systems": {REFERENCE: {"model": "any"}}}
        return check_study(validate(StudySpec, values, where=str(path)), where=str(path))

    def read_recipe(self, folder: Path, where: str) -> tuple[Recipe, Path, str]:
        """The recipe, the folder that its paths refer to, and its name in messages.

        Raises:
            ConfigError: it is missing or wrong.
        """
        if isinstance(self.recipe, dict):
            return parse_recipe(self.recipe, where=f"{where}: recipe"), folder, f"{where}: recipe"
        path = folder / Path(self.recipe).expanduser()
        return load_recipe(path), path.parent, str(path)

    def reference_model(self, recipe: Recipe, where: str) -> str:
        """The model that ``reference`` means.

        Raises:
            ConfigError: the recipe has none of that name.
        """
        if self.reference in recipe.model_names():
            return self.reference
        if self.reference == BASE and recipe.base_model is not None:
            return recipe.base_model
        known = [*recipe.model_names(), *([BASE] if recipe.base_model is not None else [])]
        raise ConfigError(
            f"reference: the recipe has no model {self.reference!r}",
            where=where,
            hint=did_you_mean(self.reference, known),
        )


def load_search(path: Path) -> SearchSpec:
    """Read a search file and check all that can be checked without opening a model.

    Raises:
        ConfigError: names the file, the key, the rule and the next step.
    """
    spec = validate(SearchSpec, read_yaml(path), where=str(path))
    spec.study(path)
    return spec


def check_grid(spec: SearchSpec, experts: int, where: str) -> None:
    """Refuse a grid with more points than a search can measure.

    Raises:
        ConfigError: it has too many.
    """
    step = spec.over.weight.grid
    size = grid_size(step, experts) if step is not None else 0
    if size > MOST_POINTS:
        raise ConfigError(
            f"over.weight.grid: a step of {step:g} over {experts} models has {size:,} points",
            where=where,
            hint="take a larger step, or search with trials",
        )
