"""Labels that people gave to answers of the study's own systems: what a judge's error is *here*.

``trivet judges sample STORE`` writes the answers, people label them, and the study names the file::

    labels: {refusal: labels.csv}   # by judge

Then the report corrects with the error that was measured on these systems, and says so.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from trivet._validation import did_you_mean
from trivet.errors import ConfigError
from trivet.judges.base import Judge
from trivet.judges.blind_sample import labels_and_population, sampled_systems
from trivet.judges.calibration import calibrate


def measured_here(judge: Judge, labels: Path, systems: Collection[str], *, seed: int) -> dict[str, Any]:
    """The judge's quality on ``labels``, in the form of ``study.judge_quality``.

    ``own_systems`` is true where the answers are of exactly these systems, as they are now.

    Args:
        systems: identities (``name@hash12``) of the study's systems.
        seed: of the bootstrap and of the test whether errors differ between systems.

    Raises:
        DataError: no such file, or a row lacks a field.
        JudgeError: the judge gives no labels, or could score none of the answers.
    """
    rows, population, _ = labels_and_population(str(labels))
    found = calibrate(judge, rows, seed=seed)
    sampled = sampled_systems(str(labels))
    return {
        **found.quality(population),
        "own_systems": bool(sampled) and sampled == frozenset(systems),
        "systems_differ_p": found.systems_p,
    }


def qualities(
    judges: Mapping[str, Judge],
    labels: Mapping[str, str],
    systems: Collection[str],
    *,
    base: Path,
    seed: int,
    where: str,
) -> dict[str, dict[str, Any]]:
    """By name, what each judge of a study is worth: measured on ``labels`` where there are any.

    Raises:
        ConfigError: labels are given for a judge that the study has not.
    """
    for name in labels:
        if name not in judges:
            raise ConfigError(
                f"labels: no evaluation of this study is scored by a judge {name!r}",
                where=where,
                hint=did_you_mean(name, judges),
            )
    return {
        name: measured_here(judge, base / labels[name], systems, seed=seed)
        if name in labels
        else dict(judge.quality)
        for name, judge in judges.items()
    }
