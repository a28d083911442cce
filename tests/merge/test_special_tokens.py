"""Ids of special tokens in a configuration follow their tokens."""

import pytest

from trivet.merge.special_tokens import with_moved_ids

BEFORE, AFTER = {"<e>": 1, "<t>": 2, "<gone>": 3}, {"<e>": 7, "<t>": 9, "<p>": 5}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"eos_token_id": 1}, {"eos_token_id": 7}),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": [7, 9]}),
        ({"eos_token_id": [1, 3]}, {"eos_token_id": [7]}),
        ({"pad_token_id": 3}, {"pad_token_id": 5}),  # gone: the new tokenizer's own
        ({"pad_token_id": [3]}, {"pad_token_id": [5]}),
        ({"bos_token_id": 3, "hidden_size": 3}, {"hidden_size": 3}),
        ({"eos_token_id": None}, {"eos_token_id": None}),
        ({"forced_bos_token_id": 1}, {"forced_bos_token_id": 7}),
        ({"forced_eos_token_id": [2, 3]}, {"forced_eos_token_id": [9]}),
        ({"suppress_tokens": [1, 3, 2]}, {"suppress_tokens": [7, 9]}),
        ({"begin_suppress_tokens": [2]}, {"begin_suppress_tokens": [9]}),
        ({"suppress_tokens": []}, {"suppress_tokens": []}),
        ({"suppress_tokens": [3]}, {}),
        ({"bad_words_ids": [[1, 2], [3], [1, 3], [2]]}, {"bad_words_ids": [[7, 9], [9]]}),
    ],
)
def test_ids_move_with_their_tokens(given, expected):
    assert with_moved_ids(given, BEFORE, AFTER, {"pad_token_id": 5}) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pad_token_id": -1}, {"pad_token_id": -1}),
        ({"eos_token_id": [1, 4]}, {"eos_token_id": [7, 4]}),  # a row of padding, and one in the new model
        ({"pad_token_id": 9}, {"pad_token_id": 5}),  # it was no token and now is <t>
        ({"pad_token_id": 20}, {"pad_token_id": 5}),  # beyond the rows: nothing would load
        ({"bos_token_id": 20}, {}),
        ({"pad_token_id": "<e>", "bos_token_id": True}, {"pad_token_id": "<e>", "bos_token_id": True}),
    ],
)
def test_ids_that_were_no_tokens_stay_while_they_are_none(given, expected):
    assert with_moved_ids(given, BEFORE, AFTER, {"pad_token_id": 5}, rows=10) == expected


def test_equal_vocabularies_change_nothing():
    given = {"pad_token_id": 20, "eos_token_id": [1, 99]}
    assert with_moved_ids(given, BEFORE, dict(BEFORE), {"pad_token_id": 3}, rows=10) == given
