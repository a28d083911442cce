"""A training run: from a configuration to a folder that is whole or absent, over any number of interruptions.

::

    .OUT.training/          what an interrupted run leaves to the next one: run.json, checkpoints/
    OUT/                    the checkpoint or adapter with README.md (its card) and training.json
"""

import importlib.metadata
import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from trivet import catalogue
from trivet._files import canonical_json, only_holder, sha256_text, write_json, write_text
from trivet._validation import read_yaml, validate
from trivet.data.trained_on import write_trained_on
from trivet.errors import StoreError, TrainingError
from trivet.models.names import ModelReference, resolve_model
from trivet.train.arguments import trainer_arguments
from trivet.train.checkpoints import ResumableTrainer, checkpoints
from trivet.train.loading import public_name
from trivet.train.progress import ProgressLines
from trivet.train.settings import TrainConfig, anchored

RECORD = "training.json"
_PACKAGES = ("trivet", "torch", "transformers", "trl", "peft", "accelerate")


@dataclass
class TrainingContext:
    """What a method is given besides its settings.

    ``work`` holds what survives an interruption, ``output`` becomes the finished folder, relative paths of
    the settings are relative to ``base``, ``where`` names the settings in messages, and ``say``
    tells the user something in a line. ``set_aside`` gets the digests of prompts that are in the data and
    took no part in training.
    """

    work: Path
    output: Path
    base: Path
    where: str
    say: Callable[[str], None] = lambda text: None
    facts: dict[str, Any] = field(default_factory=dict)
    set_aside: set[str] = field(default_factory=set)

    def arguments(
        self,
        kind: type[TrainingArguments],
        config: TrainConfig,
        honoured: Collection[str],
        name: str = "checkpoints",
    ) -> Any:
        """The trainer's arguments from the settings; its checkpoints are in ``work / name``.

        Args:
            kind, honoured: see ``trivet.train.arguments.trainer_arguments``.

        Raises:
            ConfigError: see there.
        """
        return trainer_arguments(
            kind,
            config.trainer,
            folder=self.work / name,
            seed=config.seed,
            honoured=honoured,
            where=f"{self.where}: trainer",
        )

    def tell(self, notes: Sequence[str]) -> None:
        """Say what a user should know of the data, and keep it for the record."""
        self.facts.setdefault("data", []).extend(notes)
        for note in notes:
            self.say(note)

    def fit(self, trainer: ResumableTrainer, name: str = "checkpoints") -> None:
        """Train to the end, from the newest whole checkpoint in ``work / name`` where there is one."""
        found = checkpoints(self.work / name)
        if found:
            self.say(f"goes on after {found[-1].name.replace('checkpoint-', 'step ')}")
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(ProgressLines(self.say))
        trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
        self.facts.setdefault("log", []).extend(trainer.state.log_history)


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, its record, and whether it was made now or had been before."""

    folder: Path
    record: Mapping[str, Any]
    made: bool

    @property
    def no_solution(self) -> str | None:
        """Why the folder holds no model, where the method found none that it may give."""
        found = self.record.get("no_solution")
        return None if found is None else str(found)


def train(
    name: str,
    settings: Path | Mapping[str, Any],
    output: Path,
    *,
    base: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Trained:
    """Run a training method; interrupted, the same call goes on after the last checkpoint.

    Under ``accelerate launch`` every process calls this; the first one reads, says and writes.

    Args:
        name: of the method (``dpo``), as in ``trivet methods train``.
        settings: its YAML file, or the mapping that one would hold.
        output: the folder to make.
        base: what relative paths in the settings are relative to; by default the file's folder, or the
            working directory.
        say: called with a line for the user.

    Raises:
        ConfigError: no such method, or wrong settings.
        DataError: the data cannot be read, or gives nothing to train on.
        TrainingError: a loss is not finite, another run is in the way.
        StoreError: the folder cannot be written.
    """
    method = catalogue.find(f"train/{name}")
    where = str(settings) if isinstance(settings, Path) else f"train {name}"
    values = read_yaml(settings) if isinstance(settings, Path) else settings
    config = validate(method.config, values, where=where)
    assert isinstance(config, TrainConfig)
    base = base or (settings.absolute().parent if isinstance(settings, Path) else Path.cwd())
    content = content_of(method, config, base)
    address = sha256_text(canonical_json(content))
    output = Path(output)
    processes = PartialState(cpu=not torch.cuda.is_available())
    if output.exists():
        return Trained(output, _finished(output, address), made=False)
    work = output.parent / f".{output.name}.training"
    taken = TrainingError(
        "another process is training here", where=str(work), hint="wait for it, or choose another folder"
    )
    lock = work.parent / f"{work.name}.lock"
    with only_holder(lock, taken) if processes.is_main_process else nullcontext():
        context = TrainingContext(work, work / "output", base, where, say)
        if processes.is_main_process:
            _open(work, address)
            shutil.rmtree(context.output, ignore_errors=True)
            context.output.mkdir()
        else:
            context.say = lambda text: None
        started = time.perf_counter()
        processes.wait_for_everyone()
        method.function(config, context)
        record = {
            "address": address,
            **content,
            "config": config.model_dump(mode="json"),
            "paper": method.paper,
            "seconds": round(time.perf_counter() - started, 1),
            "versions": versions(),
            **context.facts,
        }
        if processes.is_main_process:
            _say_what_it_learnt_from(context, config)
            _name_base(context.output, resolve_model(anchored(config.model, base)))
            _finish(context.output, output, record, work)
        processes.wait_for_everyone()
    return Trained(output, record, made=True)


def content_of(method: catalogue.Method, config: TrainConfig, base: Path) -> dict[str, Any]:
    """What determines the weights that a method gives: the address of a run is a digest of it."""
    inputs = config.inputs(base)
    return {
        "method": method.name,
        "version": method.version,
        "config": config.model_dump(mode="json", exclude=set(inputs)),
        "inputs": inputs,
    }


def versions() -> dict[str, str]:
    """Of the packages that a run stands on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _finished(output: Path, address: str) -> Mapping[str, Any]:
    try:
        record = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("address") != address:
        raise TrainingError(
            "is there already, and is not what these settings give",
            where=str(output),
            hint="choose another folder, or remove this one",
        )
    return record


def _open(work: Path, address: str) -> None:
    """Keep what an interrupted run of the same settings left, and refuse what another one did."""
    work.mkdir(exist_ok=True)
    state = work / "run.json"
    known = json.loads(state.read_text(encoding="utf-8")).get("address") if state.is_file() else None
    if known == address:
        return
    # What failed before it kept anything, a wrong setting say, is in nobody's way.
    if known is not None and any(entry.is_file() and entry != state for entry in work.rglob("*")):
        raise TrainingError(
            "another run with other settings, data or weights was interrupted here",
            where=str(work),
            hint="go on with its settings, or remove this folder",
        )
    write_json(state, {"address": address})


def _say_what_it_learnt_from(context: TrainingContext, config: TrainConfig) -> None:
    """Put the digests of the prompts beside each model, with those of the models that it was made of."""
    base, made = context.base, context.output
    before = (resolve_model(anchored(name, base)).trained_on for name in config.models())
    learnt = (config.prompts(base) - context.set_aside).union(*before)
    for file in [*made.rglob("adapter_config.json"), *made.rglob("config.json")]:
        write_trained_on(file.parent, learnt)


def _name_base(made: Path, reference: ModelReference) -> None:
    """Let adapters name their base so that others find it, not by where it lies in a cache here.

    It is done at the end, since PEFT asks the hub about a base that is an id whenever it saves.
    """
    for file in made.rglob("adapter_config.json"):
        settings = json.loads(file.read_text(encoding="utf-8"))
        write_json(file, {**settings, "base_model_name_or_path": public_name(reference)})


def _finish(made: Path, output: Path, record: Mapping[str, Any], work: Path) -> None:
    from trivet.train.card import model_card

    for pickled in made.rglob("training_args.bin"):  # the settings, which the record holds as JSON
        pickled.unlink()
    write_json(made / RECORD, finite(record))
    write_text(made / "README.md", model_card(record))
    try:
        made.rename(output)
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror or error}", where=str(output)) from error
    shutil.rmtree(work, ignore_errors=True)


def finite(value: Any) -> Any:
    """The value with numbers that JSON does not know as text."""
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
