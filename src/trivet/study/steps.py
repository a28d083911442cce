"""The steps of a study with their estimates, as a DAG.

A merge or a training run where one makes a system's model → generate (one a system and evaluation) → score →
analyse → report, with a latency probe for each system beside them.
"""

from collections.abc import Mapping, Sequence

from trivet.study.evaluations import Evaluation
from trivet.study.plan import Choice, Speed, Step, answer_seconds
from trivet.study.spec import StudySpec


def make_steps(
    spec: StudySpec,
    systems: Sequence[str],
    evaluations: Sequence[Evaluation],
    choice: Choice,
    speeds: Mapping[str, Speed],
    *,
    memory: Mapping[str, int | None],
    latency_prompts: int,
    makers: Mapping[str, Sequence[Step]],
) -> tuple[Step, ...]:
    """The DAG with its estimates, in an order in which it can be run.

    Args:
        systems: those that can be used.
        memory: bytes of the weights, by system.
        makers: the steps that make the models which it runs, by system.
    """
    # Systems may share one.
    steps = list(dict.fromkeys(step for made in makers.values() for step in made))
    needed = {system: tuple(step.name for step in made) for system, made in makers.items()}
    for evaluation in evaluations:
        answers = choice.prompts[evaluation.label] * evaluation.epochs
        for system in systems:
            speed = speeds.get(system, Speed())
            generated = system not in spec.log_systems
            name = f"{system} × {evaluation.label}"
            limit = evaluation.entry.max_tokens or choice.max_tokens
            tokens = min(limit, speed.tokens.get(evaluation.label, limit)) if generated else 0
            steps.append(
                Step(
                    name=f"generate {name}" if generated else f"read {name}",
                    kind="generate" if generated else "read",
                    after=needed.get(system, ()),
                    system=system,
                    evaluation=evaluation.label,
                    answers=answers,
                    tokens=round(answers * tokens),
                    seconds=_times(
                        answers, answer_seconds(speed, evaluation.label, choice.max_tokens, spec.max_tokens)
                    )
                    if generated
                    else 0.0,
                    memory_bytes=memory.get(system),
                )
            )
            steps.append(
                Step(
                    name=f"score {name}",
                    kind="score",
                    after=(steps[-1].name,),
                    system=system,
                    evaluation=evaluation.label,
                    answers=answers,
                    seconds=_times(answers, speed.scoring.get(evaluation.label)),
                )
            )
    scored = tuple(step.name for step in steps if step.kind == "score")
    for system in systems:
        if system not in spec.log_systems:
            latency = speeds.get(system, Speed()).latency
            steps.append(
                Step(
                    name=f"latency {system}",
                    kind="latency",
                    after=needed.get(system, ()),
                    system=system,
                    answers=latency_prompts,
                    seconds=_times(latency_prompts, latency),
                )
            )
    latencies = tuple(step.name for step in steps if step.kind == "latency")
    steps.append(Step(name="analyse", kind="analyse", after=scored + latencies, seconds=5.0))
    steps.append(Step(name="report", kind="report", after=("analyse",), seconds=2.0))
    return tuple(steps)


def _times(count: int, seconds: float | None) -> float | None:
    return None if seconds is None else round(count * seconds, 2)
