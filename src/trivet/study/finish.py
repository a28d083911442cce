"""Analyse and report: from scored logs to ``results.json``, ``transcripts.jsonl`` and ``report.html``.

The store's root shows the study that ran last; every study's results stay in their object.
"""

import filecmp
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspect_ai.log import read_eval_log

from trivet._files import canonical_json, sha256_text
from trivet.errors import StudyError
from trivet.study.address import Description, derived_seed, package_versions
from trivet.study.analysis import analyse
from trivet.study.cell import Cell
from trivet.study.costs import costs_of
from trivet.study.environment import environment_of
from trivet.study.facts import evaluation_info, failed_steps, system_info
from trivet.study.measurements import Measurement
from trivet.study.multipliers import bases_of
from trivet.study.plan import Plan
from trivet.study.read_logs import read_measurements
from trivet.study.report import (
    REPORT,
    RESULTS,
    TRANSCRIPTS,
    Transcript,
    transcripts_of,
    write_report,
    write_transcripts,
)
from trivet.study.results import FailedStep, Mark, StudyResults
from trivet.study.run import LATENCY, SCORED, Runner
from trivet.study.store import Store, disk_error

if TYPE_CHECKING:
    from trivet.study.opening import Study


@dataclass(frozen=True)
class Outcome:
    """What a run ends with."""

    results: StudyResults
    report: Path


def finish(study: "Study", runner: Runner, plan: Plan, cells: Sequence[Cell]) -> Outcome:
    """Analyse what was scored and write the report; does nothing where that is done already.

    Raises:
        StudyError: nothing was scored; names the first failure.
    """
    done = [cell for cell in cells if cell.scored is not None]
    failed = failed_steps(study, runner, cells)
    if not done:
        first = failed[0] if failed else None
        raise StudyError(
            f"nothing was scored: {first.step}: {first.error}" if first else "nothing was scored",
            hint=first.fix if first else None,
        )
    description = _description(study, runner, plan, done, failed)
    if runner.find(description.address) is None:
        with (
            runner.progress.step("analyse", None),
            runner.store.writing(description, study=study.spec.name, step="analyse") as draft,
        ):
            _analyse(study, runner, plan, done, failed, draft)
    runner.progress.finished()
    folder = runner.store.folder(description.address)
    report = _show(runner.store, folder)
    _record(study, runner, plan, cells, description.address)
    runner.progress.finished()
    return Outcome(StudyResults.read(folder / RESULTS), report)


def _description(
    study: "Study", runner: Runner, plan: Plan, done: Sequence[Cell], failed: Sequence[FailedStep]
) -> Description:
    latency = {
        f"latency {name}": address
        for name, address in _latencies(study, runner, plan).items()
        if runner.store.find(address) is not None
    }
    extra = {
        "failed": [step.model_dump(mode="json") for step in failed],
        "choice": plan.as_json()["choice"],
        "warnings": [*runner.warnings, *study.notes],
        "qualities": study.qualities,
        "versions": package_versions(),
    }
    spec = study.spec.model_dump(mode="json", exclude={"systems", "max_connections"})
    return Description(
        method="study/analyse",
        version=2,
        config={"spec": spec, "extra": sha256_text(canonical_json(extra))},
        inputs={
            **{cell.name: cell.scoring.address for cell in done},
            **latency,
            **{f"{maker.kind} {name}": maker.description.address for name, maker in study.makers.items()},
        },
        seed=study.spec.seed,
    )


def _latencies(study: "Study", runner: Runner, plan: Plan) -> dict[str, str]:
    return {
        name: runner.latency_step(system, plan.latency_prompts, plan.choice.max_tokens).address
        for name, system in study.systems.items()
        if system.system is not None
    }


def _analyse(
    study: "Study",
    runner: Runner,
    plan: Plan,
    done: Sequence[Cell],
    failed: Sequence[FailedStep],
    folder: Path,
) -> None:
    measurements: list[Measurement] = []
    for cell in done:
        entry = cell.evaluation.entry
        measurements += read_measurements(_log(runner, cell), system=cell.system.name, entry=entry)
    write_transcripts(folder / TRANSCRIPTS, _transcripts(runner, done))
    analysis = analyse(measurements, **_analysis_options(study))
    latencies = {
        name: json.loads((runner.store.folder(address) / LATENCY).read_text(encoding="utf-8"))
        for name, address in _latencies(study, runner, plan).items()
        if runner.store.find(address) is not None
    }
    systems = [system_info(study, name) for name in study.systems]
    results = StudyResults.from_analysis(
        analysis,
        warnings=[*runner.warnings, *study.notes, *plan.choice.said],
        study=study.spec.name,
        seed=study.spec.seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment_of(study),
        systems=systems,
        evaluations=[evaluation_info(study, plan, cell) for cell in _one_each(done)],
        costs=costs_of(measurements, latencies, study.spec.prices, bases_of(systems, study.reference)),
        marks=[Mark(**asdict(circle)) for circle in study.circles],
        failed=list(failed),
        spec=study.spec.model_dump(mode="json"),
    )
    results.write(folder / RESULTS)


def _transcripts(runner: Runner, done: Sequence[Cell]) -> Iterator[Transcript]:
    for cell in done:
        log = read_eval_log(str(_log(runner, cell)))
        entry = cell.evaluation.entry
        yield from transcripts_of(log, read_measurements(log, system=cell.system.name, entry=entry))


def _analysis_options(study: "Study") -> dict[str, Any]:
    return {
        "reference": study.reference,
        "seed": derived_seed(study.spec.seed, "analyse"),
        "systems": list(study.systems),
        "evaluations": study.spec.evaluations,
        "legs": study.spec.legs,
        "judges": study.qualities,
    }


def _log(runner: Runner, cell: Cell) -> Path:
    return runner.store.folder(cell.scoring.address) / SCORED


def _one_each(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.evaluation.label: cell for cell in reversed(cells)}.values())[::-1]


def _show(store: Store, folder: Path) -> Path:
    """Make the store's root show this study; the report is written where it is not there yet."""
    report = store.path / REPORT
    current = store.path / RESULTS
    same = report.is_file() and current.is_file() and current.read_bytes() == (folder / RESULTS).read_bytes()
    if same:
        return report
    report.unlink(missing_ok=True)
    try:
        for name in (TRANSCRIPTS, RESULTS):
            _link(folder / name, store.path / name)
    except OSError as error:
        raise disk_error(error, store.path) from error
    return write_report(folder, report)


def _link(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def _record(study: "Study", runner: Runner, plan: Plan, cells: Sequence[Cell], address: str) -> None:
    store, name = runner.store, study.spec.name
    for cell in cells:
        if cell.scored is not None:
            target = f"{name}/{cell.system.name}/{cell.evaluation.label}.eval"
            source = _log(runner, cell)
            if not _same(store.logs / target, source):
                store.link_log(source, target)
    manifests = [manifest for cell in cells for manifest in (cell.answers, cell.scored)]
    makers = {maker.description.address for maker in study.makers.values()}
    found = [manifest.address for manifest in manifests if manifest is not None]
    others = [
        *_latencies(study, runner, plan).values(),
        *makers,
    ]
    record = {
        "addresses": sorted({*found, *(a for a in others if store.find(a) is not None), address}),
        "answers": sorted({cell.journal.address for cell in cells}),
        # What failed may be tried again, from where it came to.
        "training": sorted(address for address in makers if store.find(address) is None),
        "results": address,
        "plan": plan.key,
    }
    old = store.studies().get(name, {})
    if {key: old.get(key) for key in record} != record:
        store.record_study(name, {**record, "finished": datetime.now(UTC).isoformat(timespec="milliseconds")})


def _same(link: Path, source: Path) -> bool:
    try:
        return link.samefile(source) or filecmp.cmp(link, source, shallow=False)
    except OSError:
        return False
