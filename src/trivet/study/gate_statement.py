"""A safety test in plain sentences: what was found, what that guarantees, and what it does not."""

from trivet.statistics.required_prompts import MOST, MOST_SIMULATED, POWER, RequiredPrompts
from trivet.statistics.upper_bounds import BOUNDS
from trivet.study.gate_decision import SafetyTest
from trivet.study.gate_result import GateResult


def required_lines(test: SafetyTest, required: RequiredPrompts) -> list[str]:
    """How many prompts the test needs, said before they are read."""
    most = MOST_SIMULATED if test.bound == "betting" else MOST
    none = f"no number up to {most}"
    without, half = required.no_harm or none, required.half_limit or none
    lines = [
        f"prompts needed at a limit of {test.limit:g} and delta {test.delta:g}:",
        f"  {without} to pass with no harm seen at all",
        f"  about {half} to pass with {POWER:.0%} probability where the true rate is {test.limit / 2:g}"
        if required.half_limit
        else f"  {half} passes with {POWER:.0%} probability where the true rate is {test.limit / 2:g}",
    ]
    if test.calibration is not None and required.half_limit is None:
        lines.append("  (the judge's error is too large, or was measured on too few answers)")
    return lines


def statement(result: GateResult) -> list[str]:
    """The outcome, what is guaranteed, and what is not; one sentence or short paragraph each."""
    return [*_outcome(result), "", *_guarantee(result), "", *_limits(result)]


def quantity(result: GateResult) -> str:
    """What is bounded."""
    if not result.binary:
        return f"mean cost as {result.judge} sees it"
    return "rate of harm" if result.correction is not None else f"rate of harm as {result.judge} sees it"


def _outcome(r: GateResult) -> list[str]:
    title = BOUNDS[r.method].title
    if not r.looked:
        return [
            f"NO SOLUTION FOUND: no outcome on {r.n} prompts has a bound within the limit {r.limit:g}. "
            f"{_needed(r)} No prompt was answered, and this is no look at them."
        ]
    name = quantity(r)
    bound = "there is no bound" if r.bound is None else f"the {name} is at most {r.bound:.4f}"
    head = "PASS" if r.passed else "NO SOLUTION FOUND"
    place = "" if r.bound is None else ", within the limit" if r.passed else ", which is above the limit"
    lines = [f"{head}: {bound} ({title}; delta {r.test_delta:g}){place} {r.limit:g}."]
    lines.append(f"Seen on {r.n} prompts: mean cost {r.mean_cost:.4f} (cost: {r.cost}).")
    if r.correction is not None and r.seen_bound is not None:
        c = r.correction
        lines.append(
            f"The rate as {r.judge} sees it is at most {r.seen_bound:.4f}; with its sensitivity at least "
            f"{c.sensitivity_low:.4f} and its specificity at most {c.specificity_high:.4f}, each "
            f"limit at delta {c.delta:.3g}."
        )
    if r.reason is not None:
        lines.append(f"Note: {r.reason}.")
    if not r.passed:
        lines.append(
            "That does not say that the system is unsafe: the answers are not enough to show that it is "
            f"within the limit. {_needed(r)}"
        )
    return lines


def _needed(r: GateResult) -> str:
    if r.no_harm_prompts is None:
        return "No number of prompts that was tried is enough for this limit."
    half = "no number tried" if r.half_limit_prompts is None else f"about {r.half_limit_prompts}"
    return (
        f"Needed: {r.no_harm_prompts} prompts with no harm seen; {half} at a true rate of half the limit "
        f"({POWER:.0%} power)."
    )


def _guarantee(r: GateResult) -> list[str]:
    about = "approximately, " if not r.exact else ""
    split = f" ({r.delta:g} divided by {r.split} tests)" if r.split > 1 else ""
    return [
        "What is guaranteed:",
        f"  {about}a system whose {quantity(r)} is above {r.limit:g} passes this test with probability at "
        f"most {r.test_delta:g}{split}, if the prompts are independent draws from the prompts that it will "
        "get and nothing about it was chosen on them.",
    ]


def _limits(r: GateResult) -> list[str]:
    lines = ["What is not:", *map("  - {}".format, _judge_limits(r))]
    lines += [
        "  - Other prompts: attacks, other users, other topics than those that the prompts were drawn from.",
        "  - Each answer: the bound is of a mean over prompts, with one sampled answer a prompt.",
    ]
    if not r.exact:
        lines.append(
            "  - Student's bound is approximate: rare harms make the mean skewed, and unsafe systems then "
            "pass more often than delta says (at delta 0.1 and a rate of 0.1: 0.12 with 20 to 100 prompts). "
            "Use an exact bound."
        )
    unscored = sum(r.unscored.values())
    if unscored:
        lines.append(f"  - {unscored} of {r.n} answers could not be scored, and each counts as a cost of 1.")
    off_topic = r.labels.get("off_topic", 0)
    if off_topic and r.n:
        lines.append(
            f"  - {off_topic} of {r.n} answers are off-topic or incoherent, which costs nothing and helps "
            "nobody."
        )
    if r.cut_answers:
        lines.append(
            f"  - {r.cut_answers} of {r.n} answers were cut at max_tokens; what would follow is not judged."
        )
    if r.judge_knew:
        lines.append(f"  - {r.judge} was fitted on {r.judge_knew} of these {r.n} prompts.")
    if r.earlier_tests:
        lines.append(
            f"  - A series of tests: the ledger holds others ({r.earlier_tests}), and each has its own "
            "delta, so that of many tests of unsafe systems some pass."
        )
    return lines


def _judge_limits(r: GateResult) -> list[str]:
    if r.correction is None:
        why = " (its error on labelled answers is not part of the bound)" if r.binary else ""
        return [
            f"Harm itself: this is harm as this judge sees it, {r.judge}, a learned or written measure{why}."
        ]
    c = r.correction
    where = "this very system's answers" if c.own_system else "other answers than this system's"
    return [
        f"Harm itself, beyond what people's labels say: the judge's error was measured on {where} "
        f"({c.population}; {c.answers} answers, {c.clusters} prompts). The bound holds as far as the error "
        "is the same here."
    ]
