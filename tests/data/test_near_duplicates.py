import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.data.near_duplicates import longest_common_subsequence, near_duplicates, rouge_l, words


def test_rouge_l_of_lins_example():
    # Lin (2004), section 3.1: reference S1 and candidates S2, S3 with β = 1.
    # LCS(S1, S2) = police the gunman = 3 of 4 and 4 words; LCS(S1, S3) = the gunman = 2.
    reference = "police killed the gunman"
    assert rouge_l(reference, "police kill the gunman") == 3 / 4
    assert rouge_l(reference, "the gunman kill police") == 2 / 4


def test_rouge_l_of_texts_of_different_length():
    # LCS = "what is the capital of" (5) of 6 and 8 words: precision 5/8, recall 5/6, F = 10/14.
    first, second = "What is the capital of France?", "What, then, is the capital city of Peru?"
    precision, recall = 5 / 8, 5 / 6
    assert rouge_l(first, second) == pytest.approx(2 * precision * recall / (precision + recall))
    assert rouge_l(first, second) == 10 / 14


def test_words_fold_case_and_drop_punctuation_in_any_script():
    assert words("Ça va, MÜLLER? 3.5 — 再见!") == ["ça", "va", "müller", "3", "5", "再见"]
    assert rouge_l("?!", "...") == 1
    assert rouge_l("?!", "word") == 0


def table_lcs(first, second):
    rows = [[0] * (len(second) + 1)]
    for a in first:
        row = [0]
        for j, b in enumerate(second):
            row.append(rows[-1][j] + 1 if a == b else max(rows[-1][j + 1], row[j]))
        rows.append(row)
    return rows[-1][-1]


token_lists = st.lists(st.sampled_from("abcd"), max_size=90)


@given(token_lists, token_lists)
def test_the_bit_parallel_length_is_that_of_the_table(first, second):
    assert longest_common_subsequence(first, second) == table_lcs(first, second)


@given(st.lists(st.text("ab .", max_size=25), max_size=8), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_pruning_loses_no_pair(texts, threshold):
    found = {(pair.first, pair.second): pair.rouge_l for pair in near_duplicates(texts, threshold)}
    expected = {}
    for i in range(len(texts)):
        for j in range(i + 1, len(texts)):
            score = rouge_l(texts[i], texts[j])
            if score > threshold or not (words(texts[i]) or words(texts[j])):
                expected[i, j] = score
    assert found == expected


def test_a_pair_at_the_threshold_is_allowed():
    # 7 of 10 and 10 words in common: F = 0.7, which is not above 0.7.
    first, second = "a b c d e f g h i j", "a b c d e f g x y z"
    assert rouge_l(first, second) == 0.7
    assert near_duplicates([first, second], 0.7) == []
    assert near_duplicates([first, second], 0.69)[0][:2] == (0, 1)
