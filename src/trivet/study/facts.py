"""What a report says of a study besides numbers: its systems, its evaluations, and the steps that failed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trivet.study.cell import Cell
from trivet.study.checkpoint_step import name_of
from trivet.study.plan import Plan
from trivet.study.results import EvaluationInfo, FailedStep, SystemInfo
from trivet.study.run import Runner
from trivet.study.systems import Prepared

if TYPE_CHECKING:
    from trivet.study.opening import Study


def system_info(study: "Study", name: str) -> SystemInfo:
    """What the report says of a system that could be opened."""
    prepared = study.systems[name]
    facts = prepared.facts
    engine = facts.get("engine", {})
    words = ", ".join(str(engine[key]) for key in ("engine", "device", "dtype") if key in engine)
    sources = {key.removeprefix("source_"): value for key, value in engine.items() if "source" in key}
    source = "; ".join(
        ", ".join(f"{part}: {text}" for part, text in value.items())
        if isinstance(value, dict)
        else str(value)
        for value in sources.values()
    )
    return SystemInfo(
        name=name,
        identity=str(facts["identity"]),
        spec=_spec(prepared),
        model=facts.get("model_name"),
        model_source=source or None,
        engine=words or None,
    )


def _spec(prepared: Prepared) -> dict[str, Any]:
    """``system.yaml`` with defaults filled in. What makes its model stands in the model's place."""
    if prepared.system is None:
        return {"logs": prepared.facts.get("logs")}
    spec = prepared.system.spec.model_dump(mode="json")
    if prepared.maker is None:
        return spec
    return {**prepared.maker.content, **{key: value for key, value in spec.items() if key != "model"}}


def evaluation_info(study: "Study", plan: Plan, cell: Cell) -> EvaluationInfo:
    """What the report says of an evaluation; ``cell`` is any of its cells."""
    evaluation = cell.evaluation
    subset = len(cell.ids) < len(evaluation.rows)
    return EvaluationInfo(
        name=evaluation.label,
        n_prompts=len(cell.ids),
        epochs=evaluation.epochs,
        limit=len(cell.ids) if subset else None,
        sampled=f"{len(cell.ids)} of {len(evaluation.rows)}, by category, seed {study.spec.seed}"
        if subset
        else None,
        max_tokens=evaluation.entry.max_tokens or plan.choice.max_tokens,
        suite=evaluation.entry.task or evaluation.entry.prompts,
        suite_hash=evaluation.rows_digest([str(row["id"]) for row in evaluation.rows]),
        judge=", ".join(judge.name for judge in study.judges[evaluation.label]) or None,
    )


def failed_steps(study: "Study", runner: Runner, cells: Sequence[Cell]) -> list[FailedStep]:
    """Every step that failed, in the order of the plan."""
    found = []
    for what, failure in study.failures.items():
        kind, name = what.split(" ", 1)
        shared = [other for other, maker in study.makers.items() if name_of(maker) == what]
        found.append(
            FailedStep(
                step=what,
                error=failure.error,
                cause=failure.cause or None,
                fix=failure.fix,
                systems=[] if kind == "evaluation" else shared or [name],
                evaluations=[name] if kind == "evaluation" else [],
            )
        )
    found += [
        FailedStep(
            step=cell.failed_step,
            error=cell.failure.error,
            cause=cell.failure.cause or None,
            fix=cell.failure.fix,
            systems=[cell.system.name],
            evaluations=[cell.evaluation.label],
        )
        for cell in cells
        if cell.failure is not None
    ]
    found += [
        FailedStep(step=step, error=failure.error, cause=failure.cause or None, fix=failure.fix)
        for step, failure in runner.failures.items()
    ]
    return found
