import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.judges.multiple_choice import letter, parse_choice

CHOICES = ["Paris", "Rome", "New York", "York"]


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1),
        (" b\n", 1),
        ("(B)", 1),
        ("B)", 1),
        ("B.", 1),
        ("**B**", 1),
        ("B) Rome", 1),
        ("B: Rome", 1),
        ("B - because it is old", 1),
        ("B\nRome is the capital.", 1),
        ("The answer is B.", 1),
        ("The correct answer is (B) Rome.", 1),
        ("Answer: **B**", 1),
        ("answer: b", 1),
        ("The correct letter is B.", 1),
        ("The correct answer is:\n\nB) Rome", 1),
        ("I would pick (C).", 2),
        ("A) Rome", None),
        ("The answer is A) New York.", None),
        ("A) because Rome is in Italy", 0),
        ("D) York", 3),
        ("C) New York", 2),
        ("D) New York", None),
        ("A) Paris\nB) Rome\nC) New York", None),
        ("A) Paris\nB) Rome\n\nThe correct answer is B) Rome", 1),
        ("B is the right choice.", 1),
        ("A is correct, B is correct", None),
        ("A cat is the best pet", None),
        ("answer: a city", None),
        ("The right choice is option C", 2),
        ("Option D is correct.", 3),
        ("Answer: A. No, wait. Answer: B.", None),
        ("Let me think: Rome is in Italy.", 1),
        ("It is New York.", 2),
        ("York, in England", 3),
        ("Paris or Rome", None),
        ("I believe the best one is (C).", 2),
        ("It is either (A) or (C).", None),
        ("A city in Italy", None),
        ("The answer is a city in Italy", None),
        ("The answer is A city in Italy", None),
        ("I don't know.", None),
        ("E", None),
        ("", None),
        ("The answer is B) Rome, since A) Paris is in France.", 1),
    ],
)
def test_parse_choice(answer: str, index: int | None) -> None:
    assert parse_choice(answer, CHOICES) == index


def test_a_choice_that_is_a_letter_of_the_text_is_read_as_a_letter() -> None:
    assert parse_choice("C", ["C", "B", "A"]) == 2


@pytest.mark.parametrize("choices", [["3", "13", "33"], ["1.5", "15", "5"]])
def test_numbers_as_choices_are_whole_words(choices: list[str]) -> None:
    for index, choice in enumerate(choices):
        assert parse_choice(f"It is {choice}.", choices) == index


@given(
    st.integers(0, 3), st.sampled_from(["{}", "({})", "{}.", "Answer: {}", "The answer is {}.", "{}) yes"])
)
def test_every_letter_in_every_form(index: int, form: str) -> None:
    assert parse_choice(form.format(letter(index)), CHOICES) == index


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    assert parse_choice(text, CHOICES) in {None, 0, 1, 2, 3}
