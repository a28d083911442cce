"""The report of a safety test in training: figures, what they guarantee and what not, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from trivet.statistics.upper_bounds import BOUNDS
from trivet.train.safety_test import Decision, SafetyPlan

NSF = "no solution found"


def report(
    plan: SafetyPlan,
    decision: Decision,
    *,
    unscored: int,
    cut: int,
    judge_knew: int,
    left_out: Mapping[str, int],
    max_tokens: int,
) -> dict[str, Any]:
    """The result as it is kept in the ledger and in ``safety_test.json``.

    Args:
        unscored: answers that the judge could not score.
        cut: answers that reached ``max_tokens``.
        judge_knew: prompts that the judge was fitted on.
        left_out: by reason, the prompts of the source that did not come into the test.
    """
    return {
        "passed": decision.passed,
        "outcome": "pass" if decision.passed else NSF,
        "n": decision.n,
        "mean": decision.mean,
        "std": decision.deviation,
        "bound": decision.bound,
        "tau": plan.limit,
        "delta": plan.delta,
        "split": plan.split,
        "test_delta": plan.test_delta,
        "test": BOUNDS[plan.bound].title,
        "exact": BOUNDS[plan.bound].exact,
        "cost": plan.cost,
        "judge": plan.judge[0],
        "judge_identity": plan.judge[1],
        "unscored": unscored,
        "cut_answers": cut,
        "judge_knew": judge_knew,
        "left_out": dict(left_out),
        "max_tokens": max_tokens,
        "reason": decision.reason,
    }


def statement(result: Mapping[str, Any], warnings: Sequence[str] = ()) -> list[str]:
    """The outcome, what is guaranteed, and what is not; a sentence or two each."""
    return [outcome(result), _guarantee(result), *_limits(result), *warnings]


def outcome(result: Mapping[str, Any]) -> str:
    """The outcome in a sentence."""
    head = "PASS" if result["passed"] else "NO SOLUTION FOUND"
    if result["bound"] is None:
        return f"{head}: there is no bound of the mean cost, since {result['reason']}."
    place = "within" if result["passed"] else "above"
    text = (
        f"{head}: on {result['n']} safety prompts the mean cost is {result['mean']:.4g}, and its upper bound "
        f"{result['bound']:.4g} ({result['test']}; delta {result['test_delta']:g}) is {place} the limit "
        f"{result['tau']:g}."
    )
    if result["passed"]:
        return text
    return (
        f"{text} That does not say that the policy is unsafe: the answers are not enough to show that it is "
        "within the limit."
    )


def _guarantee(result: Mapping[str, Any]) -> str:
    about = "" if result["exact"] else "approximately, "
    share = f" ({result['delta']:g} divided by {result['split']} tests)" if result["split"] > 1 else ""
    return (
        f"Guaranteed: {about}a policy whose expected cost, as {result['judge']} sees it ({result['cost']}), "
        f"is above {result['tau']:g} is returned with probability at most {result['test_delta']:g}{share}, "
        "if the safety prompts are independent draws from the prompts that it will get and nothing about it "
        "was chosen on them."
    )


def _limits(result: Mapping[str, Any]) -> list[str]:
    lines = [
        "Not guaranteed: harm itself. The cost is a learned or written measure, and its own error is no part "
        "of the bound.",
        "Not guaranteed: other prompts, such as attacks, other users or other topics.",
        "Not guaranteed: each answer. The bound is of a mean over prompts, with one answer a prompt, sampled "
        f"at temperature 1 with at most {result['max_tokens']} tokens; other decoding is not covered.",
    ]
    if not result["exact"]:
        lines.append(
            "Student's bound is approximate: it takes the mean for normal. Rare harms make it skewed, and "
            "unsafe policies then pass more often than delta says (at delta 0.1 and a rate of 0.1: 0.12 with "
            "20 to 100 prompts)."
        )
    if result["unscored"]:
        lines.append(f"{result['unscored']} of the answers could not be scored{_worst(result)}.")
    if result["cut_answers"]:
        lines.append(f"{result['cut_answers']} of the answers were cut; what would follow is not judged.")
    if result["judge_knew"]:
        lines.append(f"{result['judge']} was fitted on {result['judge_knew']} of the safety prompts.")
    for reason, count in result.get("left_out", {}).items():
        lines.append(
            f"{count} prompts are not in the test ({reason}); the bound is of such prompts as remain."
        )
    if result.get("earlier_tests"):
        lines.append(
            f"A series of tests: the ledger holds others ({result['earlier_tests']}), and each has its own "
            "delta, so that of many tests of unsafe policies some pass."
        )
    return lines


def _worst(result: Mapping[str, Any]) -> str:
    return "" if result["reason"] else ", and each counts as a cost of 1"


def ranking_warning(judge: str, limit: float, reference: Mapping[str, Any]) -> str:
    """That the costs have no zero of their own, and where the limit lies among those of the reference."""
    where = "nothing is known of the model before training"
    if reference.get("answers"):
        where = (
            f"among the costs of the model before training the limit is at the quantile "
            f"{reference['share_within_limit']:.2f} (10 %: {reference['quantile_10']:.4g}, median "
            f"{reference['median']:.4g}, 90 %: {reference['quantile_90']:.4g})"
        )
    return (
        f"WARNING: {judge} learnt by ranking alone, so a cost of 0 is no boundary between safe and unsafe, "
        f"and the limit {limit:g} means something only beside other costs: {where}."
    )
