"""Finished answers survive whatever happens to the process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.errors import StoreError
from trivet.study.journal import Journal, make_line, parse_line

outputs = st.dictionaries(st.text(max_size=8), st.text(max_size=30) | st.integers(0, 9), max_size=3)
keys = st.text(min_size=1, max_size=12)


@given(keys, outputs)
def test_a_line_comes_back(key, output):
    line = make_line(key, output)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert parse_line(line) == {"key": key, "output": output}


@given(
    st.dictionaries(keys, outputs, min_size=1, max_size=4),
    st.floats(0, 1, exclude_max=True) | st.just(1 - 1e-9),  # also the last byte alone
)
def test_cut_at_any_byte_every_whole_answer_is_kept_and_writing_goes_on(tmp_path_factory, answers, place):
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    journal = Journal(path)
    ends = []
    for key, output in answers.items():
        journal.put(key, output)
        ends.append(path.stat().st_size)
    journal.close()
    content = path.read_bytes()
    cut = int(place * len(content))
    path.write_bytes(content[:cut])
    whole = sum(end <= cut for end in ends)
    again = Journal(path)
    assert len(again) == whole
    for key, output in list(answers.items())[whole:]:
        again.put(key, output)
    again.close()
    assert {key: Journal(path).get(key) for key in answers} == answers


def test_a_changed_line_is_no_answer(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    journal.put("k", {"text": "yes"})
    journal.put("l", {"text": "no"})
    journal.close()
    path = tmp_path / "a.jsonl"
    path.write_bytes(path.read_bytes().replace(b"yes", b"yEs"))
    again = Journal(path)
    assert again.get("k") is None and again.get("l") == {"text": "no"}


def test_a_full_disk_leaves_whole_lines_only(tmp_path):
    import resource

    journal = Journal(tmp_path / "a.jsonl")
    journal.put("first", {"text": "x"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match="cannot write"):
            journal.put("second", {"text": "y" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.put("third", {"text": "z"})
    journal.close()
    again = Journal(tmp_path / "a.jsonl")
    assert again.get("first") and again.get("third") and again.get("second") is None
