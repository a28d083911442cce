"""A merge as a step of a study: a system's ``merge:`` makes the checkpoint that the system runs on.

::

    STORE/objects/<address>/checkpoint/   a Hugging Face folder with the merge's report and model card

The address holds the method with its version, the recipe with its defaults and with roles in the place of the
models' names, the content of each model (weights, configuration, tokenizer), and the recipe's seed. So two
systems of one merge share it, wherever the models lie and whatever they are called. The system's own identity
follows from the weights that were made.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trivet._files import write_json
from trivet.judges.base import Judge
from trivet.merge.checkpoint import merge_checkpoints
from trivet.merge.cost import Cost, estimate
from trivet.merge.executor import Merge, prepare
from trivet.merge.recipe import Recipe
from trivet.merge.tokenizer_rule import RULES
from trivet.models.embedded import source_of
from trivet.study.address import Description
from trivet.study.checkpoint_step import CHECKPOINT, CheckpointStep, Expected
from trivet.study.spec import StudySpec, recipe_of

if TYPE_CHECKING:
    from trivet.study.run import Runner

_NAMING = ("model", "base_model", "tokenizer_source", "source")  # keys of a recipe that hold a model's name


@dataclass(eq=False)
class MergeStep:
    """A merge that fits its models, and how far it is.

    ``system`` is the first system that needs it. ``models`` maps a name in the recipe to the SHA-256 of the
    model (of its tokenizer where the merge takes nothing else from it), ``sources`` to where its weights came
    from, as far as that is known; ``learnt`` are digests of the prompts that the models were trained on.
    ``cost`` is an estimate, where the checkpoint was not there yet; ``seconds`` is what was spent on it here.
    """

    system: str
    recipe: Recipe
    source: Path | Mapping[str, Any]
    folder: Path
    where: str
    description: Description
    models: Mapping[str, str]
    sources: Mapping[str, str]
    learnt: frozenset[str] = frozenset()
    cost: Cost | None = None
    made_of: tuple[CheckpointStep, ...] = ()
    seconds: float = 0.0
    error: Exception | None = None

    @property
    def kind(self) -> Literal["merge", "train"]:
        """The key of a system under which it stands."""
        return "merge"

    @property
    def title(self) -> str:
        """What stands in the place of a model's name."""
        return f"merge of {', '.join(self.models)} ({self.recipe.method})"

    @property
    def provenance(self) -> dict[str, str]:
        """In words: the method, and each model with its identity."""
        said = {"method": self.description.method}
        for name, identity in self.models.items():
            source = self.sources.get(name)
            said[name] = f"sha256 {identity[:12]}" + (f" from {source}" if source else "")
        return said

    @property
    def content(self) -> dict[str, Any]:
        """What the system's file says of it, with defaults filled in."""
        return {"merge": self.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)}

    @property
    def expected(self) -> Expected:
        """An estimate, where the checkpoint was not there yet."""
        if self.cost is None:
            return Expected()
        return Expected(self.cost.seconds, self.cost.bytes_written, self.cost.memory_bytes)

    @property
    def trained_on(self) -> frozenset[str]:
        """A merge learns from no prompt, but its models may have."""
        return self.learnt

    @property
    def trained_by(self) -> tuple[Judge, ...]:
        """Nor does it please a judge."""
        return ()

    def write(self, runner: "Runner") -> None:
        """Merge into the store.

        Raises:
            MergeError: the models do not fit together.
            StoreError: the disk is full.
        """
        with _prepared(self.recipe, self.folder, self.where) as merge:
            self.cost = estimate(merge)
        name = f"merge {self.system}"
        said = f"{name}: {self.cost.bytes_written / 1e9:.2f} GB, about {self.cost.seconds:.0f} s"
        with (
            runner.progress.step(said, None),
            runner.store.writing(self.description, study=runner.spec.name, step=name) as draft,
        ):
            folder = draft / CHECKPOINT
            merge_checkpoints(self.source, folder, base=self.folder, on_bytes=runner.progress.written)
            # An engine tells where weights came from by this file, and by their path where there is none.
            write_json(folder / "source.json", {"source": self.description.method, **self.description.inputs})


def read_merge(spec: StudySpec, system: str, study: Path) -> MergeStep:
    """Read the recipe of a system and open its models; no weights are merged.

    Args:
        study: the study's file.

    Raises:
        ConfigError: the recipe is wrong, or a parameter in it; names the study, the system and the key.
        ModelError: a model cannot be opened.
        MergeError: the models do not fit together.
    """
    recipe, content, folder = recipe_of(spec, system, study)
    where = f"{study}: systems.{system}.merge"
    with _prepared(recipe, folder, where) as merge:
        opened = {name: merge.sources.open(name) for name in recipe.model_names()}
        whole = {name: source.folder for name, source in opened.items() if source.adapter is None}
        sources = {name: source_of(folder).get("source") for name, folder in whole.items()}
        return MergeStep(
            system=system,
            recipe=recipe,
            source=content,
            folder=folder,
            where=where,
            description=_describe(merge),
            models=merge.identities,
            sources={name: source for name, source in sources.items() if source},
            learnt=frozenset().union(*(source.trained_on for source in opened.values())),
        )


@contextmanager
def _prepared(recipe: Recipe, folder: Path, where: str) -> Iterator[Merge]:
    merge = prepare(recipe, folder=folder, where=where)
    try:
        yield merge
    finally:
        merge.sources.close()


def _describe(merge: Merge) -> Description:
    models = merge.identities
    base, experts = merge.recipe.base_model, [name for name in models if name != merge.recipe.base_model]
    roles = {name: f"model {number}" for number, name in enumerate(experts, 1)}
    if base is not None:
        roles[base] = "base"
    method = merge.layout.method
    content = merge.recipe.model_dump(mode="json", by_alias=True, exclude={"merge_method", "seed"})
    return Description(
        method=method.name,
        version=method.version,
        config=_with_roles(content, roles),
        inputs={roles[name]: identity for name, identity in models.items()},
        seed=merge.recipe.seed,
    )


def _with_roles(value: Any, roles: Mapping[str, str], key: str = "") -> Any:
    """A recipe's content in which the models are called by their roles."""
    if isinstance(value, dict):
        return {name: _with_roles(entry, roles, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [_with_roles(entry, roles) for entry in value]
    is_rule = key in ("source", "tokenizer_source") and value in RULES
    return roles.get(value, value) if key in _NAMING and isinstance(value, str) and not is_rule else value
