import pytest

from trivet.data.rows import check_rows
from trivet.errors import DataError

GOOD = {
    "instructions": {"prompt": "p", "rules": [{"rule": "max_words", "n": 3}]},
    "short_questions": {"prompt": "p", "answers": ["4", "four"]},
    "honest": {"prompt": "p", "answerable": False, "why": "invented"},
    "harmless": {"prompt": "p"},
    "capability": {"prompt": "p", "choices": ["x", "y"], "answer": 1},
    "statements": {"statement": "s", "true": True},
}


def check(kind, **changes):
    row = {"id": "1", "category": "c", **GOOD[kind], **changes}
    return check_rows([("my.jsonl, line 7", row)], kind)


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_row_comes_back_with_its_defaults(kind):
    (row,) = check(kind)
    assert row.items() >= GOOD[kind].items()
    assert row["metadata"] == {}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("harmless", {"prompt": "  \n"}, "prompt is blank"),
        ("harmless", {"prompt": 3}, "prompt: .*string.*received 3"),
        ("harmless", {"promt": "p"}, "unknown field 'promt'"),
        ("harmless", {"id": ""}, "id: "),
        ("instructions", {"rules": []}, "rules: "),
        ("instructions", {"rules": [{"n": 3}]}, 'name under the key "rule"'),
        ("short_questions", {"answers": []}, "answers: "),
        ("short_questions", {"answers": ["4", " "]}, "accepted answer is blank"),
        ("short_questions", {"answers": ["4", "4"]}, "given twice"),
        ("honest", {"answerable": True, "answers": ["x"]}, "why belongs"),
        ("honest", {"answerable": True, "why": None}, "needs answers"),
        ("honest", {"why": " "}, "says why"),
        ("honest", {"answers": ["x"]}, "no answers"),
        ("honest", {"answerable": "no"}, "answerable: .*boolean"),
        ("capability", {"answer": 2}, "not an index of the 2 choices"),
        ("capability", {"answer": -1}, "answer: "),
        ("capability", {"answer": True}, "answer: "),
        ("capability", {"choices": ["x", "x "]}, "the right choice is given twice"),
        ("statements", {"true": 1}, "true: "),
    ],
)
def test_a_bad_row_names_its_place_and_the_rule(kind, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        check(kind, **changes)
    assert str(caught.value).startswith("my.jsonl, line 7: ")
    assert f"a row of kind '{kind}' has the fields id, category" in str(caught.value)


def test_a_missing_field_is_named():
    with pytest.raises(DataError, match=r"a\.csv, line 2: the field 'prompt' is missing"):
        check_rows([("a.csv, line 2", {"id": "1", "category": "c"})], "harmless")


def test_an_id_given_twice_names_both_places():
    row = {"id": "1", "category": "c", "prompt": "p"}
    with pytest.raises(DataError, match="line 2: the id '1' is already that of line 1"):
        check_rows([("line 1", row), ("line 2", row)], "harmless")


def test_an_empty_set_and_an_unknown_kind_are_refused():
    with pytest.raises(DataError, match="has no rows"):
        check_rows([], "harmless")
    with pytest.raises(DataError, match="did you mean 'honest'"):
        check_rows([], "honset")
