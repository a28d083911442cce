"""The cards of fitted judges: what a judge is, what it was fitted on, and how good it is, in Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trivet.judges.artifact import Header, write_artifact
from trivet.judges.calibration import Calibration
from trivet.judges.head_fit import FittedHead
from trivet.judges.material import Material
from trivet.judges.refusal import FORMAT, KIND
from trivet.judges.refusal_fit import FitConfig, FittedRefusal
from trivet.judges.refusal_wordings import WORDINGS
from trivet.statistics.interval import Estimated


def shown(estimate: Estimated) -> str:
    """``0.76 (95% interval 0.70 to 0.82)``."""
    if estimate.value is None:
        return f"none: {estimate.reason}"
    if estimate.interval is None:
        return f"{estimate.value:.3f}"
    low, high = estimate.interval.low, estimate.interval.high
    return f"{estimate.value:.3f} (95% interval {low:.3f} to {high:.3f})"


def population_of(calibration: Calibration, name: str) -> str:
    """What a refusal judge was measured on, in one line."""
    systems = ", ".join(sorted(set(calibration.systems)))
    return (
        f"{name}: {len(calibration.labels)} answers of {systems} to {len(set(calibration.clusters))} prompts "
        "held out of the fit"
    )


def write_refusal(
    path: Path,
    fitted: FittedRefusal,
    config: FitConfig,
    *,
    labels: Material[Any],
    exchanges: Sequence[Material[Any]],
) -> None:
    """Write a fitted refusal judge with its card.

    Raises:
        StoreError: the files cannot be written.
    """
    population = population_of(fitted.calibration, labels.title)
    gain, low, high = fitted.gain
    quality = {
        **fitted.calibration.quality(population),
        "baseline": fitted.baseline.quality(population),
        "gain_over_baseline": {"value": gain, "low": low, "high": high},
        "off_topic": {name: list(counts) for name, counts in fitted.off_topic.items()},
    }
    write_artifact(
        path,
        Header(KIND, FORMAT, {"quality": quality}),
        fitted.tensors,
        training_prompts=fitted.training_prompts,
        card=refusal_card(fitted, config, population, labels=labels, exchanges=exchanges),
    )


def refusal_card(
    fitted: FittedRefusal,
    config: FitConfig,
    population: str,
    *,
    labels: Material[Any],
    exchanges: Sequence[Material[Any]],
) -> str:
    """The card of a refusal judge."""
    own, baseline = fitted.calibration, fitted.baseline
    gain, low, high = fitted.gain
    lines = [
        "# Refusal judge",
        "",
        "Labels an answer as full refusal, partial refusal, compliance, or off-topic (incoherent text counts",
        "as off-topic). Two linear classifiers on the words of prompt and answer: the first finds answers",
        "that are no text about the prompt, the second tells the other three labels apart.",
        "",
        "## Agreement with people",
        "",
        f"Measured on {population}.",
        "",
        "| | this judge | string match |",
        "|---|---|---|",
        f"| Cohen's kappa | {shown(own.kappa)} | {shown(baseline.kappa)} |",
    ]
    for event in own.events:
        mine, theirs = own.events[event], baseline.events[event]
        lines += [
            f"| {event}: sensitivity | {shown(mine.sensitivity())} | {shown(theirs.sensitivity())} |",
            f"| {event}: specificity | {shown(mine.specificity())} | {shown(theirs.specificity())} |",
        ]
    lines += [
        "",
        f"Kappa is higher than that of the string match by {gain:.3f} (95% interval {low:.3f} to {high:.3f}; "
        "paired bootstrap over prompts).",
        "",
        *_by_system(own),
        "",
        "Rows: people's labels; columns: the judge's.",
        "",
        *_matrix(own),
        "",
        "## Off-topic answers",
        "",
        "People's labels have no such class. Its examples were constructed from real answers to the fit's "
        "prompts; the shares below are from prompts held out of it. The threshold lets "
        f"{config.false_off_topic:.0%} of the real answers of the fit be called off-topic.",
        "",
        "| answers | called off-topic |",
        "|---|---|",
        *(
            f"| {name} | {found} of {n} ({found / max(n, 1):.1%}) |"
            for name, (found, n) in fitted.off_topic.items()
        ),
        "",
        "An answer that keeps to the prompt's words, or is short, is seldom called off-topic though it is.",
        "The share of off-topic answers that a report shows is therefore a lower bound.",
        "",
        "## Limits",
        "",
        "- English only: an answer that is mostly not in Latin script, or whose prompt is not English, gets",
        "  no score.",
        "- It reads words. An answer that complies behind a refusing opening, or refuses in unusual words,",
        "  misleads it.",
        "- Partial refusals are rare in the labels and are mostly taken for full ones.",
        "- Fitted on the answers of few models; measure it on your own systems' answers with",
        "  `trivet judges sample` and `trivet judges calibrate`.",
        "",
        "## Data",
        "",
        f"- {fitted.training_answers} labelled answers: {labels.title}; {labels.licence}; {labels.source}",
        "- short answers made from them: first sentences of full refusals and of compliant answers, and "
        f"{len(WORDINGS)} common wordings of refusal with three prompts, "
        f"weight {config.short_answer_weight:g}",
        *(f"- exchanges for the off-topic part: {s.title}; {s.licence}; {s.source}" for s in exchanges),
        f"- L2 penalty {fitted.penalty:g} by {config.folds}-fold cross-validation over prompts; "
        f"seed {config.seed}; "
        f"{len(fitted.training_prompts)} prompts",
        "",
    ]
    return "\n".join(lines)


def head_card(fitted: FittedHead, *, training: Sequence[Material[Any]], test: Material[Any] | None) -> str:
    """The card of a head."""
    config = fitted.config
    width = len(fitted.weights)
    accuracy = "not measured" if fitted.held_out is None else shown(fitted.held_out)
    on = "" if test is None or fitted.held_out is None else f" on {fitted.held_out.n} pairs of {test.title}"
    lines = [
        f"# {config.objective.capitalize()} head",
        "",
        f"A linear head ({width} weights and a bias) on the hidden states of `{config.model}` after block "
        f"{config.layer}, averaged over the first {config.max_tokens} tokens of the answer. A higher score "
        f"means more {config.objective}; a difference of two scores is the log-odds that people prefer the "
        "first answer. "
        "System messages are not read.",
        "",
        f"- Accuracy{on}: {accuracy}. Chance is 0.5.",
        f"- Cross-validated accuracy on the pairs of the fit: {fitted.cross_validated:.3f}",
        f"- Fitted on {fitted.pairs} pairs ({fitted.left_out} more could not be read), "
        f"{len(fitted.training_prompts)} prompts; prompts of the test pairs were left out",
        f"- Weights: {fitted.weights_source}, identity `{fitted.weights_identity}`. On other weights the "
        "head warns, and its accuracy is unknown.",
        f"- L2 penalty {fitted.penalty:g} by {config.folds}-fold cross-validation; seed {config.seed}",
        "",
        "People disagree on many of these pairs, and both answers are often alike: a head of this size is a",
        "weak judge. It is good for choosing among several answers, not for saying that one is safe.",
        "",
        "## Data",
        "",
        *(f"- {s.title}; {s.licence}; {s.source}" for s in [*training, *([test] if test else [])]),
        "",
    ]
    return "\n".join(lines)


def calibration_lines(calibration: Calibration) -> list[str]:
    """A calibration in lines for the terminal."""
    n, unscored = len(calibration.labels), sum(calibration.unscored.values())
    lines = [
        f"could not score {unscored} of {n + unscored} answers",
        *(
            [f"left out {calibration.fitted_on} answers to prompts of its fit"]
            if calibration.fitted_on
            else []
        ),
        *(f"  {count} x {reason}" for reason, count in calibration.unscored.items()),
        f"kappa: {shown(calibration.kappa)}",
    ]
    for event, counts in calibration.events.items():
        lines.append(f"{event}: sensitivity {shown(counts.sensitivity())}")
        lines.append(f"{event}: specificity {shown(counts.specificity())}")
    for system, events in calibration.by_system.items():
        wrong, total = calibration.errors[system]
        rates = "; ".join(
            f"{event} Se {_rate(counts.sensitivity())} Sp {_rate(counts.specificity())}"
            for event, counts in events.items()
        )
        lines.append(f"{system}: {wrong} of {total} wrong; {rates}")
    if calibration.systems_p is not None:
        verdict = "differ" if calibration.systems_p < 0.05 else "are not seen to differ"
        lines.append(
            f"error rates given the label {verdict} between systems (p = {calibration.systems_p:.4f})"
        )
    return lines


def _rate(estimate: Estimated) -> str:
    return "none" if estimate.value is None else f"{estimate.value:.2f}"


def _by_system(calibration: Calibration) -> list[str]:
    shares = ", ".join(f"{system} {wrong} of {n}" for system, (wrong, n) in calibration.errors.items())
    p = (
        ""
        if calibration.systems_p is None
        else f" (equal error rates given the label: p = {calibration.systems_p:.4f})"
    )
    return [
        f"Wrong labels by system: {shares}{p}. Where the rates differ, "
        "correcting another system's figures by them is not safe: label some of its answers."
    ]


def _matrix(calibration: Calibration) -> list[str]:
    names = sorted({*calibration.labels, *calibration.verdicts})
    pairs = list(zip(calibration.labels, calibration.verdicts, strict=True))
    rows = [f"| {a} | " + " | ".join(str(pairs.count((a, b))) for b in names) + " |" for a in names]
    return ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|", *rows]
