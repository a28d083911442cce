"""Training as a step of a study: a system's ``train:`` makes the checkpoint that the system runs on.

::

    systems:
      harmless:
        train: {method: dpo, model: smollm2-135m-instruct, data: pairs.jsonl, trainer: {max_steps: 100}}

The address holds the method with its version, its settings with defaults filled in, the content of model and
data, and the seed. A run that was interrupted goes on after its last checkpoint, which lies in the store's
folder ``training`` until the run is finished.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trivet import catalogue
from trivet._files import write_json
from trivet._validation import validate
from trivet.errors import ConfigError, TrainingError, TrivetError
from trivet.judges.base import Judge
from trivet.study.address import Description
from trivet.study.checkpoint_step import CHECKPOINT, CheckpointStep, Expected
from trivet.study.spec import StudySpec

if TYPE_CHECKING:
    from trivet.catalogue import Method
    from trivet.study.run import Runner
    from trivet.train.settings import TrainConfig


@dataclass(eq=False)
class TrainStep:
    """A training run of a study; see ``trivet.study.checkpoint_step.CheckpointStep``."""

    system: str
    method: str
    settings: Mapping[str, Any]
    config: "TrainConfig"
    folder: Path
    description: Description
    made_of: tuple[CheckpointStep, ...] = ()
    seconds: float = 0.0
    error: Exception | None = None

    @property
    def kind(self) -> Literal["merge", "train"]:
        """The key of a system under which it stands."""
        return "train"

    @property
    def title(self) -> str:
        """What stands in the place of a model's name."""
        return f"{self.config.model} ({self.description.method})"

    @property
    def provenance(self) -> dict[str, str]:
        """In words: the method, and each input with its identity."""
        inputs = {name: f"sha256 {digest[:12]}" for name, digest in self.description.inputs.items()}
        return {"method": self.description.method, **inputs}

    @property
    def content(self) -> dict[str, Any]:
        """What the system's file says of it, with defaults filled in."""
        return {"train": {"method": self.method, **self.config.model_dump(mode="json")}}

    @property
    def expected(self) -> Expected:
        """Nothing is known before the first step has run."""
        return Expected()

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """Digests of the prompts that it learns from."""
        return self.config.prompts(self.folder)

    @cached_property
    def trained_by(self) -> tuple[Judge, ...]:
        """The judges that it learns to please."""
        return self.config.judges(self.folder)

    def write(self, runner: "Runner") -> None:
        """Train, from the last checkpoint where a run was interrupted, and put the result into the store.

        Raises:
            TrainingError: the method found no model that it may give.
            TrivetError: what the method raised.
        """
        from trivet.train.running import train

        working = runner.store.begin_training(self.description, study=runner.spec.name)
        said = f"train {self.system}"

        def say(line: str) -> None:
            runner.progress.say(f"{said}: {line}")

        with runner.progress.step(said, None):
            made = train(self.method, self.settings, working / CHECKPOINT, base=self.folder, say=say)
            if made.no_solution is not None:  # its folder stays, so that nothing is trained or tested again
                raise TrainingError(
                    made.no_solution,
                    where=said,
                    hint=f"the report is in {working / CHECKPOINT}; a new test needs new prompts",
                )
            with runner.store.writing(self.description, study=runner.spec.name, step=said) as draft:
                folder = draft / CHECKPOINT
                shutil.copytree(working / CHECKPOINT, folder)
                # An engine tells where weights came from by this file.
                write_json(
                    folder / "source.json",
                    {"source": self.description.method, **self.description.inputs},
                )
        shutil.rmtree(working, ignore_errors=True)


def read_settings(
    spec: StudySpec, system: str, study: Path
) -> "tuple[Method, Mapping[str, Any], TrainConfig]":
    """The method of a system's training, its settings as given, and with defaults filled in.

    Raises:
        ConfigError: a setting is wrong; names the study, the system and the key.
    """
    given, where = spec.systems[system], f"{study}: systems.{system}.train"
    settings = dict(given["train"]) if isinstance(given, dict) and isinstance(given["train"], dict) else None
    if settings is None or not isinstance(settings.get("method"), str):
        raise ConfigError(
            "must be a mapping with `method` and its settings",
            where=where,
            hint="train: {method: dpo, model: …, data: …}; see `trivet methods --room train`",
        )
    method = catalogue.find(f"train/{settings.pop('method')}")
    config: Any = validate(method.config, settings, where=where)
    return method, settings, config


def check_gives_models(spec: StudySpec, study: Path) -> None:
    """Refuse training that gives no single language model, before anything runs.

    Raises:
        ConfigError: names the study, the system and what to do instead.
    """
    for name in spec.train_systems:
        try:
            method, _, config = read_settings(spec, name, study)
        except TrivetError:  # told in its own step, beside which the other systems go on
            continue
        where, short = f"{study}: systems.{name}.train", method.name.removeprefix("train/")
        if "Checkpoint" not in method.gives:
            raise ConfigError(
                f"{short} gives a judge and no language model, so it is no system to measure",
                where=where,
                hint=f"train it by `trivet train {short} SETTINGS FOLDER` and name the folder as a judge, "
                "judge: FOLDER",
            )
        if getattr(config, "is_front", False):
            raise ConfigError(
                "weights: a list of vectors gives a front of several models, and a system is one",
                where=where,
                hint="write one system for each vector, weights: {…}",
            )


def read_training(spec: StudySpec, system: str, study: Path) -> TrainStep:
    """Read the training settings of a system; nothing is trained.

    Raises:
        ConfigError: a setting is wrong; names the study, the system and the key.
        ModelError, DataError: the model or the data is not there.
    """
    method, settings, config = read_settings(spec, system, study)
    folder = study.absolute().parent
    inputs = config.inputs(folder)
    description = Description(
        method=method.name,
        version=method.version,
        config=config.model_dump(mode="json", exclude={*inputs, "seed"}),
        inputs=inputs,
        seed=config.seed,
    )
    return TrainStep(system, method.name.removeprefix("train/"), settings, config, folder, description)
