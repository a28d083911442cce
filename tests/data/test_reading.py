import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivet.data.prompts import prompt_digest
from trivet.data.reading import read_prompts, read_rows
from trivet.errors import DataError

ROWS = [{"prompt": 'say "hi", please', "note": "ä"}, {"prompt": "two\nlines\u2028here", "note": ""}]


def write(path, content, encoding="utf-8"):
    data = content if isinstance(content, bytes) else content.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'prompt,note\n"say ""hi"", please",ä\n"two\nlines\u2028here",\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.JSONL", JSONL.replace("\n", "\r\n\r\n")),
        ("a.jsonl.gz", JSONL),
        ("a.json", json.dumps(ROWS)),
        ("a.csv", CSV),
        ("a.csv.gz", "\ufeff" + CSV),
        ("bom.jsonl", "\ufeff" + JSONL),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path, name, content):
    assert [row for _, row in read_rows(write(tmp_path / name, content))] == ROWS


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert [row for _, row in read_rows(tmp_path / "a.parquet")] == ROWS


def test_the_place_is_the_line_where_the_row_starts(tmp_path):
    jsonl = write(tmp_path / "a.jsonl", '{"prompt": "1"}\n\n{"prompt": "2"}\n')
    assert [where for where, _ in read_rows(jsonl)] == [f"{jsonl}, line 1", f"{jsonl}, line 3"]
    table = write(tmp_path / "a.csv", 'prompt\n"1\n1"\n2\n')
    assert [where for where, _ in read_rows(table)] == [f"{table}, line 2", f"{table}, line 4"]


def test_another_encoding_is_read_when_it_is_named(tmp_path):
    path = write(tmp_path / "a.csv", "prompt\nnaïve\n", "latin-1")
    with pytest.raises(DataError, match=r"a.csv, line 2: is not utf-8: byte 0xef"):
        read_rows(path)
    assert read_rows(path, encoding="latin-1")[0][1] == {"prompt": "naïve"}
    with pytest.raises(DataError, match="unknown encoding 'utf-9'"):
        read_rows(path, encoding="utf-9")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "a.jsonl: the file has no rows"),
        ("a.jsonl", " \n\n", "no rows"),
        ("a.json", "[]", "no rows"),
        ("a.csv", "prompt,id\n", "no rows"),
        ("a.jsonl", '{"prompt": "1"}\n{"prompt": \n', r"line 2: is not valid JSON: .*column"),
        ("a.jsonl", '["prompt"]\n', "line 1: a row must be an object.*not list"),
        ("a.jsonl", '{"a": 1, "a": 2}', "line 1: .*key 'a' is given twice"),
        ("a.jsonl", '{"a": NaN}', "line 1: .*NaN is not a JSON number"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "line 1: is not valid JSON"),
        ("a.jsonl", '{"a": ["\\ud800"]}', "line 1: holds half of a surrogate pair"),
        ("a.jsonl", '{"a": ' + "[" * 200_000, "line 1: is nested too deeply"),
        ("a.json", '[{"a": 1},\n{"a": }]', "a.json, line 2: is not valid JSON"),
        ("a.json", '{"a": 1}', "must be a list of rows, not dict"),
        ("a.json", "[1]", "row 1: a row must be an object"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3: has 3 values for 2 columns"),
        ("a.csv", "a,a\n1,2\n", "line 1: the first line must name every column, each once"),
        ("a.csv", 'a\n"1" 2\n', "line 2: is not valid CSV"),
        ("a.csv", 'a\n"1\n', "line 2: is not valid CSV: unexpected end of data"),
        ("a.txt", "hello", "unknown kind of file 'a.txt'"),
        ("a.parquet", "PAR1 but not really", "not a readable Parquet file"),
    ],
)
def test_a_bad_file_gives_one_clear_message(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_rows(write(tmp_path / name, content))
    assert name in str(caught.value)


def test_missing_files_and_damaged_archives(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path / "b.jsonl")
    whole = gzip.compress(JSONL.encode() * 50)
    for number, data in enumerate((b"not gzip", whole[:-20], b"")):
        path = tmp_path / f"{number}.jsonl.gz"
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"cannot be read|no rows"):
            read_rows(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet"]))
def test_any_bytes_give_rows_or_a_data_error(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    try:
        rows = read_rows(tmp_path / name)
    except DataError as error:
        assert name in str(error)
    else:
        assert rows
        assert all(isinstance(row, dict) for _, row in rows)


def test_prompts_of_a_user_get_ids_categories_and_keep_the_rest(tmp_path):
    path = write(
        tmp_path / "a.jsonl", '{"prompt": "Hello?"}\n{"prompt": "x", "id": 7, "category": "c", "extra": 1}\n'
    )
    first, second = read_prompts(path)
    assert first == {"id": prompt_digest("hello")[:16], "prompt": "Hello?", "category": "all", "metadata": {}}
    assert second == {"id": "7", "prompt": "x", "category": "c", "metadata": {"extra": 1}}


def test_a_repeated_prompt_keeps_a_unique_id(tmp_path):
    rows = read_prompts(write(tmp_path / "a.jsonl", '{"prompt": "x"}\n{"prompt": "X!"}\n'))
    assert rows[1]["id"] == f"{rows[0]['id']}-2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"promt": "x"}', "line 1: the field 'prompt' is missing\n.*did you mean 'promt'"),
        ('{"prompt": 3}', "line 1: the field 'prompt' must be text, not int"),
        ('{"prompt": " "}', "line 1: the field 'prompt' is blank"),
        ('{"prompt": "a", "id": "1"}\n{"prompt": "b", "id": "1"}', "line 2: the id '1' is given twice"),
    ],
)
def test_a_bad_prompt_names_its_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_prompts(write(tmp_path / "a.jsonl", content))
