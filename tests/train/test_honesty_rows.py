"""The five builders on every expected accuracy and both greedy labels, string by string."""

import itertools

import pytest

from trivet.judges import substring_answers
from trivet.judges.answers import IDK_SENTENCE, says_idk
from trivet.train.honesty_rows import (
    HIGH,
    LOW,
    VERBAL,
    Answered,
    absolute,
    confidence_num,
    confidence_verb,
    fine_tuned,
    mean_expected_accuracy,
    multisample,
)


def question(known: int, greedy_right: bool) -> Answered:
    """The right samples come last."""
    samples = tuple(f"Sample {number}." for number in range(10))
    right = tuple(number >= 10 - known for number in range(10))
    return Answered("Greedy.", greedy_right, samples, right, ("paris", "Lutetia"))


CASES = list(itertools.product(range(11), (True, False)))


@pytest.mark.parametrize(("known", "greedy_right"), CASES)
def test_every_builder_at_every_expected_accuracy(known: int, greedy_right: bool) -> None:
    row = question(known, greedy_right)
    first = f"Sample {10 - known}." if known else None
    best = "Greedy." if greedy_right else first
    assert row.expected_accuracy == known / 10
    assert fine_tuned(row) == [best or "Paris."]
    assert absolute(row) == [best or IDK_SENTENCE]
    if not known:
        assert confidence_num(row) == confidence_verb(row) == [IDK_SENTENCE]
    else:
        degree = "only about" if known <= 5 else "about"
        assert confidence_num(row) == [f"I am {degree} {10 * known} % sure of this: {best}"]
        assert best is not None
        assert confidence_verb(row) == [f"{VERBAL[(known - 1) // 2]} {best[0].lower()}{best[1:]}"]
    expected = [IDK_SENTENCE] * (10 - known) + [f"Sample {number}." for number in range(10 - known, 10)]
    assert multisample(row) == expected


def test_the_wording_changes_where_the_paper_has_it() -> None:
    verbal = [confidence_verb(question(known, True))[0].removesuffix(" greedy.") for known in range(1, 11)]
    changes = [known for known in range(2, 11) if verbal[known - 1] != verbal[known - 2]]
    assert changes == [3, 5, 7, 9] and verbal[0] == VERBAL[0] and verbal[9] == VERBAL[4]
    numbers = [confidence_num(question(known, True))[0] for known in range(1, 11)]
    assert [("only" in text) for text in numbers] == [True] * 5 + [False] * 5


def test_no_prefix_reads_as_not_knowing() -> None:
    prefixes = [*VERBAL, *(text.format(percent=50) for text in (LOW, HIGH))]
    for prefix in prefixes:
        assert not says_idk(f"{prefix} it is Paris.")
        assert not substring_answers.says_idk(f"{prefix} it is Paris.")


def test_a_letter_of_a_choice_stays_large_and_an_empty_answer_is_no_harm() -> None:
    for text in ("B", "B.", "(C) Paris", "D) Rome"):
        row = Answered(text, True, (text,), (True,))
        assert confidence_verb(row)[0].endswith(text)
    assert confidence_verb(Answered("", True, ("x",), (True,))) == [f"{VERBAL[4]} "]


def test_multisample_declines_as_often_as_the_model_is_wrong() -> None:
    rows = [question(known, greedy) for known, greedy in CASES]
    outputs = [text for row in rows for text in multisample(row)]
    assert len(outputs) == 10 * len(rows)
    share = outputs.count(IDK_SENTENCE) / len(outputs)
    assert share == pytest.approx(1 - mean_expected_accuracy(rows), abs=1e-12)


def test_absolute_and_confidence_differ_where_only_the_greedy_answer_is_right() -> None:
    rows = [question(known, greedy) for known, greedy in CASES]
    differing = [
        row for row in rows if (absolute(row) == [IDK_SENTENCE]) != (confidence_num(row) == [IDK_SENTENCE])
    ]
    assert [(row.greedy_right, row.known) for row in differing] == [(True, 0)]
    assert [row.known for row in rows if absolute(row) == [IDK_SENTENCE]] == [0]


def test_a_higher_threshold_declines_more() -> None:
    assert absolute(question(4, False), threshold=0.5) == [IDK_SENTENCE]
    assert absolute(question(5, False), threshold=0.5) != [IDK_SENTENCE]
    assert absolute(question(4, True), threshold=0.5) == ["Greedy."]


def test_without_an_accepted_answer_the_baseline_has_no_row() -> None:
    assert fine_tuned(Answered("x", False, ("y",), (False,))) == []
