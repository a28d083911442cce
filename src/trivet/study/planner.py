"""Making a plan: measure the speed of this machine where it is not known, and choose what fits the time.

The speed is measured on the first prompts of the study itself, through the same steps as the run, and their
answers are kept; so measuring costs little that would not have to be done anyway.
"""

import json
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from trivet._files import write_json
from trivet.errors import TrivetError
from trivet.statistics.power import minimum_detectable_effect
from trivet.study.cell import Cell
from trivet.study.checkpoint_step import CheckpointStep, name_of
from trivet.study.latency import PROMPTS
from trivet.study.plan import (
    PILOT,
    Choice,
    Plan,
    Speed,
    Step,
    fit,
    full_choice,
    mark_done,
    parts,
    plan_key,
)
from trivet.study.run import Runner
from trivet.study.score import score_log
from trivet.study.steps import make_steps

if TYPE_CHECKING:
    from trivet.study.opening import Study

LATENCY_SHARE = 0.12  # of the time that there is, for answers asked one at a time
FEWEST_LATENCY_PROMPTS = 4
# Before a study nobody knows how often two systems differ on a prompt; one in four is what is assumed.
DIFFERING = 0.25


def make_plan(study: "Study", runner: Runner, minutes: float | None, *, measure: bool) -> Plan:
    """The plan; one that was made for the same study and time is used again.

    Args:
        measure: measure the speed of systems whose speed is not known yet.

    Raises:
        StudyError: not even one prompt an evaluation fits the time.
    """
    identities = {name: system.identity for name, system in study.systems.items()}
    key = plan_key(study.spec, identities, study.evaluations, minutes)
    path = runner.store.path / "plans" / f"{key}.json"
    plan = None
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        plan = Plan.from_json(json.loads(path.read_text(encoding="utf-8")))
    if plan is None or study.waiting or (measure and _lacks_speeds(study, plan)):
        plan = _new_plan(study, runner, minutes, key, measure=measure)
        if not study.waiting:  # without its training it is not the plan of a run
            write_json(path, plan.as_json())
    return mark_done(plan, _done(study, runner, plan))


def _lacks_speeds(study: "Study", plan: Plan) -> bool:
    """Whether systems are still to be measured. A choice that fits a time stays, if anything was measured."""
    measured = [name for name, system in study.systems.items() if system.system is not None]
    missing = [name for name in measured if name not in plan.speeds]
    return len(missing) == len(measured) > 0 if plan.minutes is not None else bool(missing)


def _new_plan(study: "Study", runner: Runner, minutes: float | None, key: str, *, measure: bool) -> Plan:
    spec = study.spec
    speeds = {name: speed for name in study.systems if (speed := _known(runner, study, name)) is not None}
    if measure or minutes is not None:
        for name, system in study.systems.items():
            if name not in speeds and system.system is not None:
                with suppress(TrivetError):  # what fails here fails again in its own step, with its reason
                    speeds[name] = _measure(study, runner, name)
    latency_prompts = PROMPTS
    choice = full_choice(spec, study.evaluations)
    if minutes is not None and speeds:
        alone = sum(speed.latency or 0.0 for speed in speeds.values())
        affordable = int(LATENCY_SHARE * 60 * minutes / alone) if alone else PROMPTS
        latency_prompts = max(FEWEST_LATENCY_PROMPTS, min(PROMPTS, affordable))
        choice = fit(
            spec,
            study.evaluations,
            speeds,
            minutes,
            latency_prompts=latency_prompts,
            spent=sum(maker.seconds for maker in set(study.makers.values())),
        )
    if latency_prompts < PROMPTS:
        said = f"latency from {latency_prompts} prompts instead of {PROMPTS}, to fit the time"
        choice = Choice(choice.prompts, choice.max_tokens, (*choice.said, said))
    steps = make_steps(
        spec,
        [name for name in spec.systems if name in study.systems or name in study.waiting],
        study.evaluations,
        choice,
        speeds,
        memory={name: memory_of(study, name) for name in study.systems},
        latency_prompts=latency_prompts,
        makers=_maker_steps(study, runner),
    )
    return Plan(
        study=spec.name,
        key=key,
        minutes=minutes,
        choice=choice,
        steps=steps,
        latency_prompts=latency_prompts,
        speeds=speeds,
        smallest_effect=smallest_effects(study, choice),
        marks=tuple(asdict(circle) for circle in study.circles),
        notes=(
            *study.notes,
            *_not_measured(study, minutes),
            *(f"{what}: {failure.error}" for what, failure in study.failures.items()),
        ),
    )


def _not_measured(study: "Study", minutes: float | None) -> list[str]:
    if not study.waiting:
        return []
    names = ", ".join(name for name in study.spec.systems if name in study.waiting)
    said = [f"not measured yet, and not in the time: {names}; a plan trains nothing, `trivet study run` does"]
    if minutes is not None:
        said.append("the prompts fit the time without them; the run chooses again when all are trained")
    return said


def _maker_steps(study: "Study", runner: Runner) -> dict[str, tuple[Step, ...]]:
    """By system, the steps that make the models which it runs."""
    own = {name: _maker_step(maker, runner) for name, maker in study.makers.items()}
    for name in study.waiting:  # what starts from weights that are not there has no address yet
        kind = next((key for key in ("merge", "train") if key in _keys(study, name)), None)
        if name not in own and kind is not None:
            before = sorted(study.needs[name].made_of & own.keys())
            after = tuple(dict.fromkeys(own[other].name for other in before))
            own[name] = Step(name=f"{kind} {name}", kind=kind, system=name, after=after)
    found = {
        name: tuple(own[other] for other in (name, *sorted(needs.uses)) if other in own)
        for name, needs in study.needs.items()
    }
    return {name: steps for name, steps in found.items() if steps}


def _keys(study: "Study", name: str) -> Collection[str]:
    given = study.spec.systems[name]
    return given.keys() if isinstance(given, dict) else ()


def _maker_step(maker: CheckpointStep, runner: Runner) -> Step:
    """What makes a model with what it took, or with what it would take where it could not be done."""
    manifest, expected = runner.store.find(maker.description.address), maker.expected
    done = (
        (expected.seconds, expected.bytes_written) if manifest is None else (manifest.seconds, manifest.bytes)
    )
    return Step(
        name=name_of(maker),
        kind=maker.kind,
        system=maker.system,
        seconds=done[0],
        memory_bytes=expected.memory_bytes,
        bytes_written=done[1],
    )


def smallest_effects(study: "Study", choice: Choice) -> dict[str, float]:
    """By evaluation: the smallest difference from the reference that would be found (power 0.8, Holm)."""
    systems = len(study.systems) + len(study.waiting)
    family = max(1, (systems - 1) * len(study.evaluations))
    return {
        label: round(minimum_detectable_effect(n, DIFFERING, alpha=0.05 / family), 4)
        for label, n in choice.prompts.items()
        if n > 0
    }


def memory_of(study: "Study", name: str) -> int | None:
    """Bytes of a system's weights in the type that it computes in; ``None`` for endpoints and logs."""
    system = study.systems[name].system
    if system is None:
        return None
    from safetensors import safe_open

    from trivet.models.names import resolve_model

    reference = resolve_model(system.spec.model)
    folder = (reference.base or reference).path  # an adapter is merged into its base
    if folder is None:
        return None
    if folder.is_file():
        return folder.stat().st_size
    width = {"float32": 4, "float64": 8}.get(str(system.engine.description.get("dtype")), 2)
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="numpy") as tensors:
            for tensor in tensors.keys():  # noqa: SIM118 - not a mapping
                size = 1
                for side in tensors.get_slice(tensor).get_shape():
                    size *= side
                total += size * width
    return total


def _pilot(study: "Study", name: str, count: int) -> list[Cell]:
    full = full_choice(study.spec, study.evaluations)
    prompts = {e.label: min(full.prompts[e.label], count * parts(e)) for e in study.evaluations}
    return [cell for cell in study.cells(prompts, full.max_tokens) if cell.system.name == name]


def _measure(study: "Study", runner: Runner, name: str) -> Speed:
    """Answer and score the first prompts of every evaluation, and one prompt alone."""
    seconds, tokens, cells = 0.0, 0, list[Cell]()
    for count in (PILOT, 2 * PILOT, 3 * PILOT):  # answers of an earlier, interrupted pilot tell no time
        cells = _pilot(study, name, count)
        before, started = runner.generated_tokens, time.perf_counter()
        logs = runner.answers_of(cells, f"measure {name}")
        seconds, tokens = time.perf_counter() - started, runner.generated_tokens - before
        if tokens:
            break
    lengths: dict[str, float] = {}
    scoring: dict[str, float] = {}
    for cell, log in zip(cells, logs, strict=True):
        label = cell.evaluation.label
        lengths[label] = mean_tokens(log)
        started = time.perf_counter()
        score_log(
            log,
            log.with_suffix(".scored.eval"),
            cell.evaluation,
            model=cell.system.model,
            roles=runner.roles,
        )
        scoring[label] = (time.perf_counter() - started) / (len(cell.ids) * cell.evaluation.epochs)
    alone, alone_tokens = runner.one_alone(study.systems[name], cells[0])
    # Where every answer was there already, the speed of one answer alone is the best that is known.
    rate = tokens / seconds if tokens else max(1, alone_tokens) / alone
    speed = Speed(
        tokens=lengths,
        seconds={label: length / rate for label, length in lengths.items()},
        scoring=scoring,
        latency=alone,
    )
    write_json(_speed_path(runner, study, name), {**asdict(speed)})
    return speed


def mean_tokens(log: Path) -> float:
    """Mean answer length in a log, in tokens; at least 1."""
    from inspect_ai.log import read_eval_log

    samples = read_eval_log(str(log)).samples or []
    counts = [sample.output.usage.output_tokens for sample in samples if sample.output.usage]
    return max(1.0, sum(counts) / len(counts)) if counts else 1.0


def _speed_path(runner: Runner, study: "Study", name: str) -> Path:
    return runner.store.path / "plans" / f"speed-{study.systems[name].identity}.json"


def _known(runner: Runner, study: "Study", name: str) -> Speed | None:
    """The speed seen earlier on this store's machine, where it covers all evaluations."""
    try:
        speed = Speed(**json.loads(_speed_path(runner, study, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return speed if all(e.label in speed.seconds for e in study.evaluations) else None


def _done(study: "Study", runner: Runner, plan: Plan) -> Mapping[str, bool]:
    found: dict[str, bool] = {}
    for cell in study.cells(plan.choice.prompts, plan.choice.max_tokens):
        generated = runner.store.find(cell.generation.address) is not None
        found[f"{'read' if cell.system.logs else 'generate'} {cell.name}"] = generated
        found[f"score {cell.name}"] = runner.store.find(cell.scoring.address) is not None
    for name, system in study.systems.items():
        if system.system is not None:
            description = runner.latency_step(system, plan.latency_prompts, plan.choice.max_tokens)
            found[f"latency {name}"] = runner.store.find(description.address) is not None
    for maker in study.makers.values():
        found[name_of(maker)] = runner.store.find(maker.description.address) is not None
    return found
