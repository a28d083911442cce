"""Notes of decoding methods cut to size, and as trees."""

import json

from hypothesis import given
from hypothesis import strategies as st

from trivet.study.report.trace_tree import trees
from trivet.study.report.traces import CANDIDATES, LONGEST, STEP_CANDIDATES, bounded

BEST = {
    "method": "best_of_n", "n": 2, "judge": "length", "chosen": 1, "expected_win_rate": 2 / 3,
    "candidates": [
        {"text": "a\nb", "score": None, "unscored": "empty"}, {"text": "", "tokens": 3, "score": -0.5},
    ],
}  # fmt: skip
DEAL = {
    "method": "deal", "satisfied": {"length": False, "regex": True}, "choices": [
        {"step": 6, "chosen": [1, 2], "candidates": [
            {"text": " ", "values": {"judge": 0.25, "length": None}, "violates": True, "beam": 0},
            {"text": " x", "lookahead": " y"}, {"text": "z"},
        ]},
    ],
}  # fmt: skip

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=80), inner, max_size=6),
    max_leaves=60,
)


def test_a_note_that_fits_is_kept_as_it_is():
    assert bounded([DEAL]) == [DEAL]


def test_what_a_long_search_left_out_is_counted():
    step = {"chosen": 40, "candidates": [{"text": "word", "visits": number} for number in range(50)]}
    note = {"method": "rain", "searches": 9, "steps": [step] * 500, "steps_left_out": 7}
    [small] = bounded([note])
    assert len(json.dumps(small)) <= LONGEST
    assert small["searches"] == 9 and len(small["steps"]) > 5
    assert small["steps_left_out"] == 507 - len(small["steps"])
    first = small["steps"][0]
    assert len(first["candidates"]) == STEP_CANDIDATES + 1
    assert first["candidates"][first["chosen"]]["visits"] == 40, "the chosen one stays"
    assert first["candidates_left_out"] == 50 - STEP_CANDIDATES - 1
    [best] = bounded([{"method": "b", "chosen": 90, "candidates": [{"score": i} for i in range(100)]}])
    assert (
        best["candidates"][best["chosen"]]["score"] == 90 and best["candidates_left_out"] == 99 - CANDIDATES
    )


@given(plain)
def test_anything_is_taken(value):
    for trace in (value, [value], [{"method": "m", "steps": [value], "candidates": value, "chosen": value}]):
        small = bounded(trace)
        assert len(json.dumps(small, allow_nan=False)) <= LONGEST + 200
        drawn = trees(small)
        text = json.dumps(drawn, ensure_ascii=False, allow_nan=False)
        assert "\u202e" not in text and "\u001b" not in text
        assert len(drawn) == len(small)


def test_candidates_are_nodes_and_the_chosen_one_is_marked():
    [[title, text, facts, chosen, below]] = trees([BEST])
    assert (title, text, chosen) == ("best of n", None, False)
    assert facts == [["n", "2"], ["judge", "length"], ["expected win rate", "0.6667"]]
    assert below == [
        [None, "a↵b", [["unscored", "empty"]], False, []],
        [None, "", [["tokens", "3"], ["score", "\u22120.5"]], True, []],
    ]


def test_steps_say_what_was_chosen():
    [[_, _, facts, _, [step]]] = trees([DEAL])
    assert facts == [["satisfied", "length no, regex yes"]]
    assert step[:4] == ["step 7", " x z", [], False]
    assert step[4][0] == [
        None, "␣", [["values", "judge 0.25, length –"], ["violates", ""], ["beam", "0"]], False, []
    ]  # fmt: skip
    assert [node[3] for node in step[4]] == [False, True, True]


def test_a_method_of_tomorrow_is_shown_too():
    note = {"method": "new_one", "rounds": [{"text": "t", "inner": {"deep": [1, 2], "more": {"x": 1}}}]}
    [[title, _, _, _, [node]]] = trees([note])
    assert (title, node[0], node[1]) == ("new one", "round 1", "t")
    assert node[4] == [["inner", None, [["deep", "1, 2"], ["more", "x 1"]], False, []]]
    [[_, _, _, _, [left]]] = trees([{"method": "m", "rounds_left_out": 1200}])
    assert left[0] == "… 1,200 more rounds left out"
