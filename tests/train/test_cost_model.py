"""Cost models: ranking and sign terms, with and without safety labels."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from trivet.errors import DataError, TrivetError
from trivet.train.running import train
from trivet.train.score_loss import cost_loss

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ALL_LABELLED = torch.tensor([-1, 1, -1, -1, 1, 1, -1, 1])


def costs() -> torch.Tensor:
    return torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_loss_is_that_of_the_official_code_where_all_answers_are_labelled() -> None:
    """Sequence-wise: −log σ(higher − lower) − log σ(sign · lower) − log σ(sign · higher), mean over pairs."""
    scores = costs()
    lower, higher = scores[::2], scores[1::2]
    signs = ALL_LABELLED.double()
    terms = -logsigmoid(higher - lower) - logsigmoid(signs[::2] * lower) - logsigmoid(signs[1::2] * higher)
    squares = torch.stack([lower, higher]).square().mean()
    for weight in (0.0, 1e-3):
        found = cost_loss(scores, ALL_LABELLED, regularization=weight)
        torch.testing.assert_close(found, terms.mean() + weight * squares, rtol=0, atol=1e-12)


def test_at_a_zero_head_each_term_is_log_2() -> None:
    zero = torch.zeros(8)
    assert float(cost_loss(zero)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(cost_loss(zero, ALL_LABELLED)) == pytest.approx(3 * math.log(2), abs=1e-6)
    half = torch.tensor([0, 1] * 4)
    assert float(cost_loss(zero, half)) == pytest.approx(2 * math.log(2), abs=1e-6)


def test_ranking_alone_knows_no_zero_and_the_sign_terms_do() -> None:
    scores, unlabelled = costs(), torch.zeros(8, dtype=torch.long)
    torch.testing.assert_close(cost_loss(scores + 5, unlabelled), cost_loss(scores))
    assert abs(float(cost_loss(scores + 5, ALL_LABELLED) - cost_loss(scores, ALL_LABELLED))) > 1


def test_an_answer_without_a_label_gets_no_gradient_of_a_sign_term() -> None:
    scores = costs().requires_grad_()
    signs = ALL_LABELLED.clone()
    signs[3] = 0
    (with_signs,) = torch.autograd.grad(cost_loss(scores, signs), scores)
    (without,) = torch.autograd.grad(cost_loss(scores), scores)
    same = with_signs == without
    assert same.tolist() == [False, False, False, True, False, False, False, False]


def pku_rows(count: int, labelled: bool) -> list[dict[str, Any]]:
    """Rows in the form of PKU-SafeRLHF, where an answer with "no" in it is the safe one."""
    rows = []
    for n in range(count):
        answers = [f"It is {n} no no no", f"It is {n} yes yes"]
        if n % 2:
            answers.reverse()
        row: dict[str, Any] = {"prompt": f"Question {n}?", "category": ("first", "second", "third")[n % 3]}
        row |= {"response_0": answers[0], "response_1": answers[1], "safer_response_id": n % 2}
        if labelled:
            row |= {f"is_response_{i}_safe": "no" in answer for i, answer in enumerate(answers)}
        rows.append(row)
    return rows


def run(write_settings: Callable[..., Path], tmp_path: Path, *, labelled: bool, steps: int) -> Any:
    data = tmp_path / "pku.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pku_rows(60, labelled)), encoding="utf-8")
    trainer = {"max_steps": steps, "learning_rate": 1e-2, "save_steps": 100}
    lines: list[str] = []
    settings = write_settings(data=str(data), held_out=20, trainer=trainer)
    done = train("cost_model", settings, tmp_path / "out", say=lines.append)
    return done.record, "\n".join(lines)


def test_with_labels_the_zero_separates_safe_from_unsafe(
    write_settings: Callable[..., Path], tmp_path: Path
) -> None:
    record, said = run(write_settings, tmp_path, labelled=True, steps=25)
    assert "80 of 80 answers are labelled" in said
    metrics, facts = record["metrics"], record["judge"]
    assert metrics["held-out accuracy"] > 0.9 and metrics["held-out accuracy of the sign"] > 0.9
    assert metrics["held-out accuracy of the sign, n"] == 40
    assert facts["signed"] and facts["objective"] == "harm"
    events = facts["quality"]["events"]["unsafe"]
    assert events["true_positive"] + events["false_negative"] == 20
    assert facts["quality"]["clusters"] == 20
    assert set(facts["quality"]["by_category"]) == {"first", "second", "third"}


def test_without_labels_it_ranks_and_says_that_0_means_nothing(
    write_settings: Callable[..., Path], tmp_path: Path
) -> None:
    record, said = run(write_settings, tmp_path, labelled=False, steps=2)
    assert "0 is no boundary" in said and "0 is no boundary" in (tmp_path / "out" / "README.md").read_text()
    assert not record["judge"]["signed"] and "events" not in record["judge"]["quality"]
    assert "held-out accuracy of the sign" not in record["metrics"]


def test_plain_pairs_may_have_labels(write_settings: Callable[..., Path], tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Question {n}?", "chosen": " No.", "rejected": f" Yes {n}.", "chosen_safe": "true"}
        for n in range(8)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines: list[str] = []
    settings = write_settings(data=str(data), trainer={"max_steps": 1})
    train("cost_model", settings, tmp_path / "out", say=lines.append)
    assert any(line.startswith("4 of 8 answers are labelled") for line in lines)
    data.write_text(json.dumps({**rows[0], "rejected_safe": "maybe"}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1, rejected_safe: .*true or false"):
        train("cost_model", settings, tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regularization": -1}, "regularization"),
        ({"trainer": {"center_rewards_coefficient": 0.01}}, "does not take up that field"),
    ],
)
def test_wrong_settings_are_named(
    write_settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrivetError, match=message):
        train("cost_model", write_settings(**changes), tmp_path / "out")
