"""The ledger of safety tests: one look at a set of prompts, whatever happens."""

import json

import pytest

from trivet._files import canonical_json, sha256_text
from trivet.data.safety_ledger import Ledger, ledger_lock, prompts_digest
from trivet.errors import StoreError, StudyError


def prompts(*names):
    return [sha256_text(str(name)) for name in names]


def declared(system="a@1", limit=0.05, delta=0.05, split=1):
    return {"system": system, "limit": limit, "delta": delta, "split": split}


SET = prompts(*range(20))


def begin(ledger, test, digests):
    name = ledger.declare(test)
    assert ledger.admit(name, digests) is None
    return ledger.begin(name, digests)


def test_a_test_is_written_down_step_by_step(tmp_path):
    ledger = Ledger(tmp_path)
    name = ledger.declare(declared())
    lines = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["declared"]
    assert (lines[0]["test"]["limit"], lines[0]["test"]["delta"]) == (0.05, 0.05)
    look = ledger.begin(name, SET)
    ledger.finish(look, {"passed": True})
    again = Ledger(tmp_path)
    assert [line.result for line in again.looks] == [{"passed": True}]
    assert again.declare(declared()) == name
    assert len(again.path.read_text().splitlines()) == 3  # the same declaration is not written twice
    assert again.admit(name, SET).result == {"passed": True}
    assert again.admit(name, SET[::-1]).prompts == prompts_digest(SET)  # the order does not matter


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "other", [declared("b@2"), declared(limit=0.2), declared(delta=0.01), declared(split=2)]
)
def test_a_second_look_is_refused(tmp_path, other, finished):
    ledger = Ledger(tmp_path)
    look = begin(ledger, declared(), SET)
    if finished:
        ledger.finish(look, {"passed": False})
    again = Ledger(tmp_path)
    with pytest.raises(StudyError) as caught:
        again.admit(again.declare(other), SET)
    message = str(caught.value)
    assert "20 of the 20 prompts were used before, by a test of a@1" in message
    assert ("found no solution" if finished else "was begun and not finished") in message
    assert "--split K" in message


def test_overlapping_prompts_are_looked_at_once_too(tmp_path):
    ledger = Ledger(tmp_path)
    begin(ledger, declared(), SET)
    other = ledger.declare(declared("b@2"))
    with pytest.raises(StudyError, match="1 of the 5 prompts were used before"):
        ledger.admit(other, [SET[3], *prompts("w", "x", "y", "z")])
    assert ledger.admit(other, prompts("v", "w", "x", "y", "z")) is None
    # the same test on a grown set is another look
    with pytest.raises(StudyError, match="20 of the 21"):
        ledger.admit(ledger.declare(declared()), [*SET, *prompts("new")])


def test_a_declaration_alone_is_no_look(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.declare(declared())
    assert ledger.looks == []
    assert ledger.admit(ledger.declare(declared("b@2")), SET) is None


def test_only_the_same_test_goes_on(tmp_path):
    begin(Ledger(tmp_path), declared(), SET)
    ledger = Ledger(tmp_path)
    look = ledger.admit(ledger.declare(declared()), SET)
    assert look is not None and look.result is None


# Card 08, check 11.
def test_ten_candidates_on_one_set_are_refused_or_share_delta(tmp_path):
    ledger = Ledger(tmp_path / "one")
    begin(ledger, declared("0@0"), SET)
    for candidate in range(1, 10):
        with pytest.raises(StudyError):
            ledger.admit(ledger.declare(declared(f"{candidate}@{candidate}")), SET)
    ledger = Ledger(tmp_path / "ten")
    for candidate in range(10):
        begin(ledger, declared(f"{candidate}@{candidate}", split=10), SET)
    with pytest.raises(StudyError, match="tests allowed on one set of prompts: 10, looks so far: 10"):
        ledger.admit(ledger.declare(declared("10@10", split=10)), SET)
    with pytest.raises(StudyError, match=r"split 10, this one with 0\.05 and 20"):
        ledger.admit(ledger.declare(declared("10@10", split=20)), SET)
    # resuming one of the ten is no eleventh look
    assert ledger.admit(ledger.declare(declared("3@3", split=10)), SET) is not None


def test_a_line_cut_short_was_never_acted_upon(tmp_path):
    ledger = Ledger(tmp_path)
    begin(ledger, declared(), SET)
    data = ledger.path.read_bytes()
    first, second = data.splitlines(keepends=True)
    for cut in (1, len(second) // 2, len(second) - 1):
        ledger.path.write_bytes(first + second[:cut])
        torn = Ledger(tmp_path)
        assert torn.looks == []
        begin(torn, declared("b@2"), SET)
        assert len(Ledger(tmp_path).looks) == 1


@pytest.mark.parametrize("change", ["edit", "drop", "conflict", "format"])
def test_a_damaged_ledger_proves_nothing(tmp_path, change):
    ledger = Ledger(tmp_path)
    begin(ledger, declared(), SET)
    text = ledger.path.read_text()
    if change == "edit":
        text = text.replace('"delta":0.05', '"delta":0.01')
    elif change == "drop":
        text = "".join(text.splitlines(keepends=True)[1:])  # begun without its declaration
    elif change == "conflict":
        text = "<<<<<<< HEAD\n" + text
    else:
        text = text.replace('"format":2', '"format":9')
    ledger.path.write_text(text)
    with pytest.raises(StoreError, match="line 1: is damaged or was changed"):
        Ledger(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error_before_any_look(tmp_path):
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "sub")
    ledger.path = tmp_path / "file" / "ledger.jsonl"
    with pytest.raises(StoreError, match="cannot write"):
        ledger.declare(declared())


def test_lines_that_were_taken_out_or_moved_are_noticed(tmp_path):
    ledger = Ledger(tmp_path)
    for system, digests in (("a@1", SET), ("b@2", prompts("x", "y"))):
        ledger.finish(begin(ledger, declared(system), digests), {"passed": False})
    lines = ledger.path.read_text().splitlines(keepends=True)
    changed = {2: [lines[0], *lines[3:]], 1: lines[3:], 5: [*lines[:4], lines[5], lines[4]]}
    for number, text in changed.items():  # the first test's look and result; all of it; two in another order
        ledger.path.write_text("".join(text))
        with pytest.raises(StoreError, match=f"line {number}: .* a line before it is missing"):
            Ledger(tmp_path)


def test_ledgers_whose_lines_are_not_chained_are_read_and_go_on(tmp_path):
    ledger = Ledger(tmp_path)
    begin(ledger, declared(), SET)
    old = []
    for line in ledger.path.read_text().splitlines():
        entry = {**json.loads(line), "format": 1}
        entry = {name: value for name, value in entry.items() if name not in ("previous", "check")}
        old.append(canonical_json({**entry, "check": sha256_text(canonical_json(entry))[:16]}) + "\n")
    ledger.path.write_text("".join(old))
    again = Ledger(tmp_path)
    begin(again, declared("b@2"), prompts("x"))
    assert len(Ledger(tmp_path).looks) == 2
    new = again.path.read_text().splitlines(keepends=True)
    again.path.write_text("".join([*new[:1], *new[2:]]))  # the old look is gone
    with pytest.raises(StoreError, match="line 2"):
        Ledger(tmp_path)
    again.path.write_text("".join([*new, old[1]]))  # nothing unchained comes after
    with pytest.raises(StoreError, match="line 5"):
        Ledger(tmp_path)


def test_one_process_at_a_time_and_the_lock_file_stays(tmp_path):
    with ledger_lock(tmp_path):
        held = (tmp_path / "lock").stat().st_ino
        with pytest.raises(StudyError, match="another test is using this ledger"), ledger_lock(tmp_path):
            pass
    assert (tmp_path / "lock").stat().st_ino == held
    with ledger_lock(tmp_path):
        assert (tmp_path / "lock").stat().st_ino == held
