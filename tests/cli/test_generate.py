"""``trivet generate``: the command around the file of answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trivet import cli
from trivet.models.engines import close_engines


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_engines()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.root, ["generate", *arguments])


def test_answers_then_nothing_left_to_do(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompts, output = tmp_path / "p.jsonl", tmp_path / "a.jsonl"
    prompts.write_text('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 2}\n', encoding="utf-8")
    arguments = [
        "--input", str(prompts), "--output", str(output), "--system", str(tiny_model_folder),
        "--max-tokens", "4", "--temperature", "1", "--seed", "5", "--json",
    ]  # fmt: skip
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    summary = json.loads(first.stdout)
    assert (summary["answers"], summary["kept"]) == (2, 0)
    assert 0 < summary["output_tokens"] <= 8
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [1, 2]
    assert rows[0]["system"] == summary["system"]
    assert rows[0]["settings"] == {"seed": 5, "max_tokens": 4, "sampling": {"temperature": 1.0}}
    again = run(*arguments)
    assert json.loads(again.stdout)["kept"] == 2
    assert "tokens/s" in first.stderr


def test_a_users_mistake_ends_with_2_and_one_message(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"promt": "b"}\n', encoding="utf-8")
    bad_row = run("--input", str(prompts), "--output", str(tmp_path / "a.jsonl"))
    assert bad_row.exit_code == 2
    assert "p.jsonl, line 2" in bad_row.stderr and "Traceback" not in bad_row.stderr
    prompts.write_text('{"prompt": "a"}\n', encoding="utf-8")
    no_model = run(
        "--input", str(prompts), "--output", str(tmp_path / "a.jsonl"), "--system", str(tmp_path / "none")
    )
    assert no_model.exit_code == 2
    assert not (tmp_path / "a.jsonl").exists()
    unknown = run(
        "--input", str(prompts), "--output", str(tmp_path / "a.jsonl"),
        "--system", str(tiny_model_folder), "--engine", "torhc",
    )  # fmt: skip
    assert unknown.exit_code == 2
    assert "did you mean 'torch'" in unknown.stderr
