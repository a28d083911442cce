"""Fitting the refusal judge: prompts are never on both sides, and equal data give equal weights."""

from pathlib import Path

import numpy as np
import pytest

from trivet.data.prompts import prompt_digest
from trivet.errors import DataError
from trivet.judges.calibration import LabelledAnswer
from trivet.judges.material import exchanges, labelled_answers
from trivet.judges.refusal_fit import FitConfig, draw, fit_refusal, kappa_gain, split_by_prompt


def test_the_split_keeps_prompts_apart_and_depends_on_the_seed() -> None:
    rows = [LabelledAnswer(f"Prompt {n // 3}?", "x", "compliance", "m", str(n)) for n in range(90)]
    training, test = split_by_prompt(rows, 0.4, 0)
    assert {row.prompt for row in training}.isdisjoint(row.prompt for row in test)
    assert len(test) == 36 and len(training) + len(test) == len(rows)
    assert split_by_prompt(rows, 0.4, 0) == (training, test)
    assert split_by_prompt(rows, 0.4, 1) != (training, test)


def test_a_prompt_in_other_spelling_is_the_same_prompt() -> None:
    rows = [LabelledAnswer(text, "x", "compliance", "m", "") for text in ("What is it?", "what is  IT")] * 10
    rows += [LabelledAnswer(f"Other {n}", "x", "compliance", "m", "") for n in range(10)]
    training, test = split_by_prompt(rows, 0.5, 3)
    assert {prompt_digest(r.prompt) for r in training}.isdisjoint(prompt_digest(r.prompt) for r in test)


def test_labels_it_does_not_know_are_refused() -> None:
    rows = [LabelledAnswer("p", "a", "refused", "m", "c")]
    with pytest.raises(DataError, match="refused"):
        fit_refusal(rows, [], [], FitConfig())
    with pytest.raises(DataError, match="no answer is labelled"):
        fit_refusal([rows[0]._replace(label="compliance")], [], [], FitConfig())


def test_the_gain_over_a_baseline_is_paired() -> None:
    generator = np.random.default_rng(0)
    labels = [str(value) for value in generator.integers(2, size=400)]
    worse = [label if generator.random() < 0.7 else "0" for label in labels]
    better = [label if w == label or generator.random() < 0.5 else w for label, w in zip(labels, worse)]
    clusters = [str(n // 2) for n in range(400)]
    gain, low, high = kappa_gain(labels, better, worse, clusters, 0)
    assert 0 < low < gain < high
    assert kappa_gain(labels, worse, worse, clusters, 0)[0] == 0


@pytest.mark.slow
def test_a_refit_on_real_answers_gives_the_same_weights(real_data: Path) -> None:
    rows = labelled_answers(f"xstest_completions:{real_data / 'xstest-completions'}").rows
    real = draw(exchanges(f"hh_single_turn/train_w2s:{real_data / 'hh-single-turn'}").rows, 200, 0)
    first, second = (fit_refusal(rows, real, [], FitConfig(folds=2)) for _ in range(2))
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(tensor, second.tensors[name])
    assert first.gain[1] > 0
