"""A front: one adapter for each weighting of the objectives, with everything shared that can be.

Data, token ids, the reference's log-probabilities, the rewards and the loaded model serve all points; what
is done for each is its own training, from the same fresh adapter. A point that is finished is kept over an
interruption, and the one under way goes on after its last checkpoint::

    OUT/front.json          the points, their weights, held-out figures and times
    OUT/w_0.2_0.8/          an adapter with its own README.md and training.json
"""

import json
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from safetensors.torch import load_file

from trivet import catalogue
from trivet._files import canonical_json, sha256_text, write_json, write_text
from trivet._validation import Config
from trivet.errors import ConfigError
from trivet.models.names import resolve_model
from trivet.train.card import model_card
from trivet.train.checkpoints import ResumableTrainer
from trivet.train.launching import need_whole_weights
from trivet.train.loading import weights_folder
from trivet.train.preference_method import Prepared, preference_arguments, preference_trainer
from trivet.train.preference_trainer import Objective, PreferenceExample, PreferenceTrainer
from trivet.train.running import RECORD, TrainingContext, content_of, finite, versions
from trivet.train.settings import anchored
from trivet.train.weight_vectors import VectorsConfig, WeightsConfig, point_name

FRONT = "front.json"
Vector = tuple[float, ...]
TrainPoint = Callable[[Vector, str, Path], Mapping[str, Any]]
"""Trains a vector of weights, with its checkpoints under a name and the result in a folder; see ``fit_point``
for what it returns."""
_Config = TypeVar("_Config", bound=VectorsConfig)


@dataclass(frozen=True)
class Point:
    """What one vector of weights trains: its loss, and the pairs with their margins and weights.

    ``measure`` gives the held-out figures of a trainer, none where nothing is held out.
    """

    objective: Objective
    trained: Sequence[PreferenceExample]
    held_out: Sequence[PreferenceExample]
    measure: Callable[[PreferenceTrainer], Mapping[str, Any]]


def with_top_layers(config: _Config, context: TrainingContext) -> _Config:
    """The settings with the adapter on the layers that ``top_layers`` asks for.

    Nothing below them is computed backward.

    Raises:
        ConfigError: the model has fewer layers.
    """
    if config.top_layers is None:
        return config
    from transformers import AutoConfig

    reference = resolve_model(anchored(config.model, context.base))
    folder = weights_folder(reference, where=f"{context.where}: model {config.model}")
    layers = int(AutoConfig.from_pretrained(folder).get_text_config().num_hidden_layers)
    if config.top_layers > layers:
        raise ConfigError(f"top_layers: the model has {layers} layers", where=context.where)
    chosen = list(range(layers - config.top_layers, layers))
    return config.model_copy(update={"adapter": {**(config.adapter or {}), "layers_to_transform": chosen}})


def train_points(
    method: str,
    config: WeightsConfig,
    context: TrainingContext,
    prepared: Prepared,
    point: Callable[[Vector], Point],
    *,
    started: float,
) -> None:
    """``train_front`` of the methods that learn from pairs.

    Args:
        point: what a vector trains.

    Raises:
        ConfigError: FSDP is to split the weights of a front.
    """
    if config.is_front:
        need_whole_weights(preference_arguments(config, context), "a front", context.where)

    def train_point(vector: Vector, checkpoints: str, folder: Path) -> dict[str, Any]:
        return _train(config, context, prepared, point(vector), checkpoints, folder)

    train_front(method, config, context, prepared.trainee.model, train_point, started=started)


def train_front(
    method: str,
    config: VectorsConfig,
    context: TrainingContext,
    model: Any,
    train_point: TrainPoint,
    *,
    started: float,
    figures: Collection[str] = ("held-out loss", "held-out accuracy"),
) -> None:
    """Train each vector of weights; ``context.output`` is then the checkpoint, adapter or front.

    Args:
        method: name of the method.
        model: what ``train_point`` trains; it begins each point as it is now.
        started: when the shared work began (``time.perf_counter``).
        figures: held-out figures of the points that stand on the front's own card.

    Raises:
        TrainingError: a loss or a gradient is not finite.
    """
    if not config.is_front:
        (vector,) = config.vectors()
        context.facts |= train_point(vector, "checkpoints", context.output)
        return
    front = _Front(method, config, context, model, train_point)
    shared = time.perf_counter() - started
    entries: list[dict[str, Any]] = []
    for number, vector in enumerate(config.vectors()):
        name = point_name(vector)
        context.say(f"{name}: weights {number + 1} of {len(config.vectors())}")
        before = entries[-1]["name"] if config.warm_start and entries else None
        entries.append(front.entry(vector, before))
    front.write(entries, shared, figures)


class _Front:
    def __init__(
        self,
        method: str,
        config: VectorsConfig,
        context: TrainingContext,
        model: Any,
        train_point: TrainPoint,
    ) -> None:
        self._method = catalogue.find(f"train/{method}")
        self._config = config
        self._context = context
        self._model = model
        self._train_point = train_point
        self._finished = context.work / "finished"
        self._data = list(context.facts.get("data", []))
        self._fresh = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self._processes = PartialState()

    def entry(self, vector: Vector, before: str | None) -> dict[str, Any]:
        """Train a point, unless it is finished; what ``front.json`` says of it."""
        folder = self._finished / point_name(vector)
        if not (folder / RECORD).is_file():
            self._make(vector, before, folder)
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {
            "name": folder.name,
            "weights": dict(zip(self._config.objectives, vector, strict=True)),
            "warm start from": before,
            **{key: record[key] for key in ("steps", "loss", "metrics", "seconds", "training_seconds")},
        }

    def _make(self, vector: Vector, before: str | None, folder: Path) -> None:
        context, main = self._context, self._processes.is_main_process
        self._start_from(before)
        staging = self._finished / f".{folder.name}"
        if main:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self._processes.wait_for_everyone()
        checkpoints = f"checkpoints-{folder.name}"
        facts = self._train_point(vector, checkpoints, staging)
        if main:
            record = finite({**self._record(vector, before), **facts})
            write_json(staging / RECORD, record)
            write_text(staging / "README.md", model_card(record))
            staging.rename(folder)
            shutil.rmtree(context.work / checkpoints, ignore_errors=True)
        self._processes.wait_for_everyone()

    def _start_from(self, before: str | None) -> None:
        from peft import set_peft_model_state_dict

        model = self._model
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self._fresh[name])
                    parameter.grad = None
        if before is not None:  # from the disk, so that it is the same after an interruption
            weights = load_file(self._finished / before / "adapter_model.safetensors")
            set_peft_model_state_dict(model, weights)

    def _record(self, vector: Vector, before: str | None) -> dict[str, Any]:
        """The record of a point: of a run with its weights alone, where it would be the same run."""
        config: Config = self._config
        alone: dict[str, Any] = {}
        if before is None:
            weights = dict(zip(self._config.objectives, vector, strict=True))
            config = self._config.model_copy(update={"weights": weights, "warm_start": False})
        else:
            alone = {"point": point_name(vector)}
        assert isinstance(config, VectorsConfig)
        content = content_of(self._method, config, self._context.base)
        started = f"It is {point_name(vector)} of them, started from {before}." if before else ""
        return {
            "address": sha256_text(canonical_json({**content, **alone})),
            **content,
            **alone,
            "config": config.model_dump(mode="json"),
            "paper": self._method.paper,
            "versions": versions(),
            "data": self._data,
            "note": started,
        }

    def write(self, entries: list[dict[str, Any]], shared: float, figures: Collection[str]) -> None:
        """Put the points into the output, with what is said of them together."""
        facts = self._context.facts
        trained = sum(entry["training_seconds"] for entry in entries)
        facts["front"] = entries
        facts["steps"] = sum(entry["steps"] for entry in entries)
        facts["metrics"] = {
            f"{figure}, {entry['name']}": value
            for entry in entries
            for figure, value in entry["metrics"].items()
            if figure in figures
        }
        if not self._processes.is_main_process:
            return
        for entry in entries:
            shutil.copytree(self._finished / entry["name"], self._context.output / entry["name"])
        content = {
            "objectives": self._config.objectives,
            "seconds": {"shared": round(shared, 1), "training": round(trained, 1)},
            "points": entries,
        }
        write_json(self._context.output / FRONT, finite(content))


def _train(
    config: WeightsConfig,
    context: TrainingContext,
    prepared: Prepared,
    point: Point,
    checkpoints: str,
    folder: Path,
) -> dict[str, Any]:
    begun = time.perf_counter()
    arguments = preference_arguments(config, context, checkpoints)
    trainer = preference_trainer(prepared, arguments, point.objective, point.trained, point.held_out)
    return fit_point(context, trainer, checkpoints, folder, lambda: point.measure(trainer), begun=begun)


def fit_point(
    context: TrainingContext,
    trainer: ResumableTrainer,
    checkpoints: str,
    folder: Path,
    measure: Callable[[], Mapping[str, Any]],
    *,
    begun: float,
) -> dict[str, Any]:
    """Train to the end and save in ``folder``; log, steps, last loss, held-out figures and times.

    Args:
        checkpoints: their name, see ``TrainingContext.fit``.
        measure: gives the held-out figures once the model is trained.
        begun: when work on this point began (``time.perf_counter``).
    """
    started = time.perf_counter()
    context.fit(trainer, checkpoints)
    training = time.perf_counter() - started
    metrics = dict(measure())
    trainer.save_model(str(folder))
    log = context.facts.pop("log", [])
    return {
        "steps": trainer.state.global_step,
        "loss": next((entry["loss"] for entry in reversed(log) if "loss" in entry), None),
        "metrics": metrics,
        "seconds": round(time.perf_counter() - begun, 1),
        "training_seconds": round(training, 2),
        "log": log,
    }
