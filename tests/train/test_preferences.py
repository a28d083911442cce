"""Preference pairs in every form that TRL reads, and what is no pair."""

import json
from pathlib import Path
from typing import Any

import pytest

from trivet.errors import DataError
from trivet.train.preferences import asked, read_preferences


def write(folder: Path, *rows: Any) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "rows.jsonl"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        (
            {"prompt": "Q ", "chosen": "yes", "rejected": "no"},
            {"prompt": "Q ", "chosen": "yes", "rejected": "no"},
        ),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is black."},
            {"prompt": "The sky is", "chosen": " blue.", "rejected": " black."},
        ),
        (
            {"prompt": [user("Q")], "chosen": [assistant("a")], "rejected": [assistant("b")], "score": 3},
            {"prompt": [user("Q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        ),
        (
            {"chosen": [user("Q"), assistant("a")], "rejected": [user("Q"), assistant("b")]},
            {"prompt": [user("Q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        ),
        (
            {"chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"},
            {"prompt": [user("Q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        ),
    ],
)
def test_the_forms_of_a_pair(tmp_path: Path, row: Any, pair: Any) -> None:
    assert list(read_preferences(write(tmp_path, row), base=tmp_path).pairs) == [pair]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Q", "chosen": "a", "rejected": "a"}, "the two answers are the same"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "the prompt is empty"),
        (
            {"prompt": [user("Q")], "chosen": [assistant(" ")], "rejected": [assistant("b")]},
            "an answer is empty",
        ),
        (
            {"chosen": "\n\nHuman: Q\n\nAssistant: ", "rejected": "\n\nHuman: Q\n\nAssistant: b"},
            "the turns do not alternate, or one is empty",
        ),
        (
            {
                "chosen": [user("Q"), assistant("x"), user("R"), assistant("a")],
                "rejected": [user("Q"), assistant("y"), user("R"), assistant("b")],
            },
            "the two dialogues differ before their last answer",
        ),
    ],
)
def test_rows_that_give_no_pair_are_counted_by_reason(tmp_path: Path, row: Any, reason: str) -> None:
    good = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    found = read_preferences(write(tmp_path, row, good, row), base=tmp_path)
    assert len(found.pairs) == 1 and found.left_out == {reason: 2}
    with pytest.raises(DataError, match="no row gives a preference pair"):
        read_preferences(write(tmp_path, row), base=tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Q", "chosen": "a"}, r"rows\.jsonl, line 1: the field 'rejected' is missing"),
        ({"prompt": "Q", "chosen": "a", "rejected": 3}, "rejected: must be a text or a list of messages"),
        ({"prompt": "Q", "chosen": "a", "rejected": [assistant("b")]}, "texts and lists of messages mixed"),
    ],
)
def test_what_is_no_pair_names_file_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_preferences(write(tmp_path, row), base=tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_preferences("nowhere.jsonl", base=tmp_path)


def test_the_real_pairs_are_read(real_data: Path) -> None:
    """Card 01, check 8, on the part of HH-RLHF that is here: every row is a pair or has a reason."""
    found = read_preferences(f"hh_single_turn/test:{real_data / 'hh-single-turn'}", base=Path("/"))
    assert len(found.pairs) + sum(found.left_out.values()) == 3000
    assert len(found.pairs) > 2950
    for pair in found.pairs:
        assert pair["chosen"] != pair["rejected"]
        assert "\n\nHuman:" not in pair["chosen"][0]["content"] + pair["rejected"][0]["content"]


def test_what_is_asked_is_the_last_message_of_the_user() -> None:
    chat = [user("First"), assistant("a"), user("What  is\tthis?")]
    assert asked(chat) == asked("what is THIS?") != asked("First")
