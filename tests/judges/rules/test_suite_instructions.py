"""The suite against answers written by hand: each request can be fulfilled, and not by any answer at all."""

import json
from pathlib import Path

from trivet.data.suites import suite_rows
from trivet.judges.rules import check, parse_rules

ANSWERS = json.loads((Path(__file__).parent / "suite_answers.json").read_text(encoding="utf-8"))


def test_every_request_can_be_fulfilled() -> None:
    rows = suite_rows("instructions")
    assert set(ANSWERS) == {row["id"] for row in rows}
    for row in rows:
        held = check(parse_rules(row["rules"]), ANSWERS[row["id"]])
        assert all(held), (row["id"], row["rules"], held)


def test_the_answer_to_another_request_seldom_fulfils_one() -> None:
    """Rules that any text fulfils would measure nothing."""
    rows = suite_rows("instructions")
    fulfilled = {}
    for row in rows:
        rules = parse_rules(row["rules"])
        others = [text for identity, text in ANSWERS.items() if identity != row["id"]]
        fulfilled[row["id"]] = sum(all(check(rules, text)) for text in others) / len(others)
    assert sum(fulfilled.values()) / len(rows) < 0.15
    # What is fulfilled by nearly every short text are the requests to leave out a word or a letter.
    assert sum(share > 0.8 for share in fulfilled.values()) <= 15
