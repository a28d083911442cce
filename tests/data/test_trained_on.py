"""The record of the prompts that a checkpoint learnt from."""

import pytest

from trivet.data.prompts import prompt_digest
from trivet.data.trained_on import FILE, read_trained_on, write_trained_on
from trivet.errors import DataError


def test_what_is_written_is_read(tmp_path):
    digests = {prompt_digest("What is up?"), prompt_digest("And down?")}
    write_trained_on(tmp_path, [*digests, *digests])
    assert read_trained_on(tmp_path) == digests
    assert prompt_digest("what is up") in read_trained_on(tmp_path)


def test_without_a_prompt_there_is_no_file(tmp_path):
    write_trained_on(tmp_path, [])
    assert not (tmp_path / FILE).exists()
    assert read_trained_on(tmp_path) == read_trained_on(None) == frozenset()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"a": 1}', '{"a": ["x"]}', '{"a": [1]}', '{"a": [], "b": []}']
)
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_trained_on(tmp_path)
