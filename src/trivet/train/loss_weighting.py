"""Loss weighting: one run of DPO on the pairs of several objectives, each with its weight.

The baseline LW of "Beyond One-Preference-Fits-All Alignment: Multi-Objective Direct Preference Optimization"
(arXiv 2310.03708, section 4): with pairs D_i judged on objective i,

    L = Σ_i w_i · L_DPO(π_θ; D_i),    L_DPO(D_i) the mean over the pairs of D_i

The sets are mixed, and a pair of D_i counts w_i · N / |D_i| in the mean over a batch, N being the number of
all pairs, so that the batches' mean loss is L whatever the sizes of the sets. It costs one run of DPO on the
mixture for each vector of weights. It is not MODPO: where two objectives disagree about a pair of answers it
fits both labels, and no single reward is behind it.

::

    model: smollm2-135m-instruct
    data: hh_single_turn/train:data/hh-single-turn
    objective: harmless
    pairs: {helpful: helpful_pairs.jsonl}
    weights: [[0.8, 0.2], [0.2, 0.8]]
    adapter: {r: 8, lora_alpha: 16}
    trainer: {learning_rate: 1.0e-4, max_steps: 100, per_device_train_batch_size: 4}
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from trivet._files import canonical_json, sha256_text
from trivet.catalogue import method
from trivet.errors import DataError
from trivet.train.fronts import Point, train_points, with_top_layers
from trivet.train.held_out import held_out_metrics, hold_out
from trivet.train.preference_method import loss_type, preference_arguments, prepare
from trivet.train.preference_trainer import Objective, PreferenceExample, PreferenceTrainer
from trivet.train.preferences import Pair, asked, read_preferences
from trivet.train.running import TrainingContext
from trivet.train.settings import data_digest
from trivet.train.sources import left_out_notes
from trivet.train.weight_vectors import WeightsConfig

_OBJECTIVE = "objective"


class Config(WeightsConfig):
    """Those of every method that weighs objectives, and the pairs of the other objectives."""

    pairs: dict[str, str] = Field(
        min_length=1, description="by other objective, rows that were judged on it; as `data`"
    )

    def others(self) -> Sequence[str]:
        """Names of the objectives besides that of ``data``."""
        return list(self.pairs)

    def inputs(self, base: Path) -> dict[str, str]:
        """See ``TrainConfig.inputs``."""
        digests = [(name, data_digest(source, base)) for name, source in self.pairs.items()]
        return {**super().inputs(base), "pairs": sha256_text(canonical_json(digests))}

    def prompts(self, base: Path) -> frozenset[str]:
        """See ``TrainConfig.prompts``."""
        found = set(super().prompts(base))
        for source in self.pairs.values():
            found |= {asked(pair["prompt"]) for pair in read_preferences(source, base=base).pairs}
        return frozenset(found)


@method(paper="2310.03708", version=1, takes=("Checkpoint", "DataSet"), gives=("Checkpoint",))
def train(config: Config, context: TrainingContext) -> None:
    """Train a policy for each vector of weights; ``context.output`` is the adapter, or the front of them.

    Raises:
        ConfigError, DataError, ModelError: what the settings name is wrong.
        TrainingError: a loss or a gradient is not finite.
    """
    started = time.perf_counter()
    arguments = preference_arguments(config, context)
    kind = loss_type(arguments.loss_type, context.where)
    prepared = prepare(with_top_layers(config, context), context, arguments, *_mixture(config, context))
    trained = _by_objective(prepared.trained, prepared.trained_pairs)
    held_out = _by_objective(prepared.held_out, prepared.held_out_pairs)
    for vector in config.vectors():
        _check(dict(zip(config.objectives, vector, strict=True)), trained, context.where)

    def point(vector: tuple[float, ...]) -> Point:
        weights = dict(zip(config.objectives, vector, strict=True))

        return Point(
            Objective(arguments.beta, kind),
            mixed(trained, weights),
            mixed(held_out, weights),
            lambda trainer: _measure(trainer, held_out, weights),
        )

    train_points("loss_weighting", config, context, prepared, point, started=started)


def mixed(
    sets: Mapping[str, Sequence[PreferenceExample]], weights: Mapping[str, float]
) -> list[PreferenceExample]:
    """The pairs of all objectives that have a weight; one of D_i is weighted by w_i · N / |D_i|."""
    sets = {name: examples for name, examples in sets.items() if weights[name]}
    total = sum(map(len, sets.values()))
    return [
        replace(example, weight=weights[name] * total / len(examples))
        for name, examples in sets.items()
        for example in examples
    ]


def _measure(
    trainer: PreferenceTrainer, sets: Mapping[str, Sequence[PreferenceExample]], weights: Mapping[str, float]
) -> dict[str, Any]:
    """Figures by objective, and the held-out loss Σ_i w_i L_i."""
    figures = {name: held_out_metrics(trainer, examples) for name, examples in sets.items()}
    missing = [name for name, weight in weights.items() if weight and name not in figures]
    loss = sum(weights[name] * found["held-out loss"] for name, found in figures.items())
    return {
        **({} if missing else {"held-out loss": loss}),
        **{f"{figure}, {name}": value for name, found in figures.items() for figure, value in found.items()},
    }


def _mixture(config: Config, context: TrainingContext) -> tuple[list[Pair], list[Pair], list[str]]:
    """The pairs of all objectives, each marked with its own; no held-out prompt is trained on in any."""
    pairs: list[Pair] = []
    notes = []
    for name, source in zip(config.objectives, (config.data, *config.pairs.values()), strict=True):
        found = read_preferences(source, base=context.base)
        pairs += [{**pair, _OBJECTIVE: name} for pair in found.pairs]
        notes.append(f"{name}: {len(found.pairs)} pairs of {found.source}")
        notes += [f"{name}: {note}" for note in left_out_notes(found.left_out)]
    trained, held_out = hold_out(pairs, config.held_out, config.seed)
    if held_out:
        notes.append(f"{len(held_out)} pairs held out; no prompt of theirs is trained on")
    return trained, held_out, notes


def _by_objective(
    examples: Sequence[PreferenceExample], pairs: Sequence[Pair]
) -> dict[str, list[PreferenceExample]]:
    found: dict[str, list[PreferenceExample]] = {}
    for example in examples:
        found.setdefault(pairs[example.example.row][_OBJECTIVE], []).append(example)
    return found


def _check(weights: Mapping[str, float], trained: Mapping[str, Sequence[Any]], where: str) -> None:
    for name, weight in weights.items():
        if weight and not trained.get(name):
            raise DataError(
                f"no pair of {name!r} is among those that are seen", where=where, hint="train for more steps"
            )
