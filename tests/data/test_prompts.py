from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet._files import sha256_text
from trivet.data.prompts import normalise_prompt, prompt_digest, stratified_subset
from trivet.errors import DataError


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("How do I pick a lock?", "  how do i\tpick a LOCK "),
        ("“Quoted”, he said…", '"quoted" he said...'),
        ("Straße", "STRASSE"),
        ("ﬁre", "fire"),
        ("e\u0301tude", "\u00e9tude"),
        ("１２３", "123"),
        ("k\u200bi\u00adll a process", "kill a process"),
        ("one\ue000 word", "one word"),
    ],
)
def test_the_same_prompt_in_other_clothes(first, second):
    assert normalise_prompt(first) == normalise_prompt(second)
    assert prompt_digest(first) == prompt_digest(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is 8 + 2?", "What is 8 - 2?"),
        ("What is 8-2?", "What is 8/2?"),
        ("What is 3.5 times 2?", "What is 35 times 2?"),
        ("Write C", "Write C++"),
        ("?", "!"),
        ("你好", "再见"),
    ],
)
def test_different_prompts_stay_different(first, second):
    assert prompt_digest(first) != prompt_digest(second)


def test_the_digest_is_that_of_the_normal_form():
    assert normalise_prompt("Hello,  World!") == "hello world"
    assert prompt_digest("Hello,  World!") == sha256_text("hello world")


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise_prompt(text)
    assert normalise_prompt(once) == once


def rows_of(sizes):
    return [
        {"id": f"{name}-{i}", "category": name, "prompt": f"{name} {i}"}
        for name, size in sizes.items()
        for i in range(size)
    ]


def test_strata_are_drawn_in_proportion():
    rows = rows_of({"a": 60, "b": 30, "c": 10})
    # Webster's divisors with shares 0.6, 0.3, 0.1 of 20 seats: exactly 12, 6, 2.
    drawn = Counter(row["category"] for row in stratified_subset(rows, 20, seed=3))
    assert drawn == {"a": 12, "b": 6, "c": 2}


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 12), min_size=1),
    st.integers(0, 1000),
    st.randoms(use_true_random=False),
)
def test_subsets_are_nested_and_independent_of_the_order(sizes, seed, random):
    rows = rows_of(sizes)
    shuffled = list(rows)
    random.shuffle(shuffled)
    whole = [row["id"] for row in stratified_subset(rows, len(rows), seed=seed)]
    assert sorted(whole) == sorted(row["id"] for row in rows)
    for n in range(len(rows) + 2):
        assert [row["id"] for row in stratified_subset(shuffled, n, seed=seed)] == whole[:n]


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 20), min_size=1), st.integers(0, 60))
def test_no_stratum_is_off_its_share_by_more_than_the_number_of_strata(sizes, n):
    rows = rows_of(sizes)
    n = min(n, len(rows))
    drawn = Counter(row["category"] for row in stratified_subset(rows, n, seed=1))
    for name, size in sizes.items():
        assert abs(drawn[name] - n * size / len(rows)) <= len(sizes)


def test_the_seed_draws_and_every_row_has_the_same_chance():
    rows = rows_of({"a": 10})
    counts = Counter(row["id"] for seed in range(2000) for row in stratified_subset(rows, 3, seed=seed))
    # 2000 draws of 3 in 10: mean 600, standard deviation √(2000 · 0.3 · 0.7) = 20.5; five of them are 103.
    assert all(abs(counts[row["id"]] - 600) < 103 for row in rows)


def test_faults_name_the_row():
    with pytest.raises(DataError, match=r"row 2.*'topic'"):
        stratified_subset([{"id": "1", "topic": "x"}, {"id": "2"}], 1, key="topic")
    with pytest.raises(DataError, match=r"row 2.*'1' is given twice"):
        stratified_subset([{"id": "1", "category": "x"}, {"id": "1", "category": "y"}], 1)
    with pytest.raises(ValueError, match="0 or more"):
        stratified_subset([], -1)
