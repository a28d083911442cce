"""The calibrated and transformed reward of InfAlign (arXiv 2412.19792), from answers of the reference."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trivet.judges import Judge
from trivet.statistics.win_rates import calibrated, calibration_error, leave_one_out_calibrated
from trivet.train.kept_lines import append_lines, read_lines
from trivet.train.prompts import Prompt
from trivet.train.rollouts import Rollout, judged
from trivet.train.sampled_answers import DRAWN, ROWS, Wanted, answer_all

Floats = npt.NDArray[np.float64]
Table = Mapping[int, Floats]
"""By a prompt's row, the scores of the reference's answers to it that could be scored [K]."""


def scored_answers(
    engine: Any,
    judge: Judge,
    prompts: Sequence[Prompt],
    *,
    count: int,
    max_tokens: int,
    seed: int,
    folder: Path,
    say: Callable[[str], None],
) -> list[tuple[Rollout, list[float | None]]]:
    """``count`` answers of the engine's model to each prompt, with their scores.

    Answers and scores are kept in ``folder`` as they come; what is there is not made again.
    """
    answers = answer_all(
        engine,
        [one.tokens for one in prompts],
        [Wanted(count, DRAWN)],
        max_tokens=max_tokens,
        seed=seed,
        path=folder / "answers.jsonl",
        progress=lambda done, total: say(f"{folder.name}: {done} of {total} prompts answered"),
    )
    rollouts = [Rollout(prompt, tuple(some)) for prompt, some in zip(prompts, answers, strict=True)]
    path = folder / "scores.jsonl"
    scores = read_lines(path)
    together = max(1, ROWS // count)
    while len(scores) < len(rollouts):
        new = judged(judge, rollouts[len(scores) : len(scores) + together])
        append_lines(path, new)
        scores += new
    return list(zip(rollouts, scores, strict=True))


def reward_table(scored: Sequence[tuple[Rollout, Sequence[float | None]]]) -> Table:
    """The table; a prompt with fewer than two scored answers is not in it."""
    known = {
        rollout.prompt.row: np.array([value for value in scores if value is not None], dtype=np.float64)
        for rollout, scores in scored
    }
    return {row: np.sort(values) for row, values in known.items() if values.size > 1}


def calibration_notes(table: Table, prompts: int) -> list[str]:
    """What a user should know of the calibration, in sentences."""
    quantiles = np.concatenate([leave_one_out_calibrated(values) for values in table.values()])
    distinct = float(np.mean([np.unique(values).size / values.size for values in table.values()]))
    notes = [
        f"calibrated on {quantiles.size} answers of the reference to {len(table)} prompts; "
        f"{distinct:.0%} of the scores of a prompt are distinct; calibration error "
        f"{calibration_error(quantiles):.3f} (0 without ties)"
    ]
    if len(table) < prompts:
        notes.append(f"{prompts - len(table)} prompts left out: fewer than two answers could be scored")
    return notes


class CalibratedReward:
    """Φ(C(x, y)) of answers; see ``trivet.train.infalign``. It logs the means of the judge's ``score`` and of
    ``calibrated``, which is the win rate over the reference.

    Args:
        transform: of calibrated rewards [answers] and the number of samples that they stand on.
    """

    def __init__(self, judge: Judge, table: Table, transform: Callable[[Floats, int], Floats]) -> None:
        self.judge, self.table, self.transform = judge, table, transform

    def __call__(
        self, rollouts: Sequence[Rollout], note: Callable[[str, Sequence[float]], None]
    ) -> list[list[float | None]]:
        """See ``trivet.train.rollouts.Reward``."""
        rewards: list[list[float | None]] = []
        quantiles: list[float] = []
        scored = judged(self.judge, rollouts)
        for rollout, scores in zip(rollouts, scored, strict=True):
            reference = self.table[rollout.prompt.row]
            known = [value for value in scores if value is not None]
            ranks = calibrated(known, reference)
            values = iter(self.transform(ranks, reference.size).tolist())
            rewards.append([None if value is None else next(values) for value in scores])
            quantiles += ranks.tolist()
        note("score", [value for scores in scored for value in scores if value is not None])
        note("calibrated", quantiles)
        return rewards
