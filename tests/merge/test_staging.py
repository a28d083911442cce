"""Stopped anywhere, a merge leaves nothing unfinished that loads, and the same command ends as ever."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from trivet.errors import MergeError, StoreError
from trivet.merge import checkpoint, merge_checkpoints, shard_numbers, shards, staging
from trivet.merge.report import JSON_FILE
from trivet.merge.staging import STATE, staging_folder

SHARDS = 60_000
"""Bytes in a file: several files."""

# Every step that writes or moves something, in the order of a merge.
STEPS = [
    (staging, "write_json"),  # the state, later config.json
    (shards.ShardWriter, "__enter__"),
    (shard_numbers, "keep"),
    (shards.ShardWriter, "__exit__"),
    (shards, "write_json"),  # the index
    (checkpoint.shutil, "copyfile"),
    (checkpoint, "save_tokenizer"),
    (checkpoint, "write_json"),
    (checkpoint, "write_report"),
    (checkpoint, "write_html"),
    (checkpoint, "write_text"),
    (shard_numbers, "remove"),
    (Path, "rename"),
]


class Stopped(BaseException):
    """As a signal at this instant."""


def stop_at(monkeypatch, holder, name, call, after):
    """Stop before or after a call of a function; the list of its calls."""
    real, calls = getattr(holder, name), []

    def stopping(*arguments, **options):
        calls.append(arguments)
        if len(calls) != call:
            return real(*arguments, **options)
        if after:
            real(*arguments, **options)
        raise Stopped

    monkeypatch.setattr(holder, name, stopping)
    return calls


def contents(folder):
    """Every file's bytes; the report's numbers without the time and what was said of an interruption."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    for page in ("merge_report.html", "README.md"):
        found[page] = b""
    report = json.loads(found[JSON_FILE])
    report["warnings"] = [text for text in report["warnings"] if "interrupted" not in text]
    found[JSON_FILE] = json.dumps({**report, "seconds": 0, "summary": {**report["summary"], "warnings": 0}})
    return found


@pytest.fixture
def recipe(write_recipe):
    return write_recipe(tokenizer={"source": "base", "pad_to_multiple_of": 64})


@pytest.fixture
def whole(recipe, tmp_path):
    merge_checkpoints(recipe, tmp_path / "whole", shard_bytes=SHARDS)
    return contents(tmp_path / "whole")


def unfinished_that_loads(out):
    return [folder for folder in (out, staging_folder(out)) if (folder / "config.json").exists()]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("holder", "name"), STEPS, ids=lambda value: getattr(value, "__name__", value))
def test_stopped_at_any_step(recipe, whole, tmp_path, holder, name, after):
    out, call = tmp_path / "out", 0
    while True:  # at the first call of the function, the second, until there is none
        call += 1
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(staging_folder(out), ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, holder, name, call, after)
            try:
                merge_checkpoints(recipe, out, shard_bytes=SHARDS, threads=1)
                assert call > 1, "the step is none of a merge"
                break
            except Stopped:
                pass
        moved = out.exists()
        assert unfinished_that_loads(out) == ([out] if moved else [])
        report = merge_checkpoints(recipe, out, shard_bytes=SHARDS, threads=1).report
        assert (report is None) == moved
        assert contents(out) == whole, (name, call)
        assert not staging_folder(out).exists()


def test_killed_between_the_configuration_and_the_move(recipe, whole, tmp_path, monkeypatch):
    """Then the hidden folder holds the whole checkpoint; it does not load while it is made anew."""
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "whole", staging_folder(out))
    (staging_folder(out) / ".config.json.x1.tmp").write_text("{}")
    (staging_folder(out) / ".tokenizer-x1").mkdir()
    seen = stop_at(monkeypatch, checkpoint, "run", 0, after=False)
    real = checkpoint.write_report
    monkeypatch.setattr(
        checkpoint,
        "write_report",
        lambda report, folder: (seen.append((folder / "config.json").exists()), real(report, folder)),
    )
    report = merge_checkpoints(recipe, out, shard_bytes=SHARDS).report
    assert report is not None and len(report.tensors) == len(json.loads(whole[JSON_FILE])["tensors"])
    assert seen[1:] == [False]
    assert contents(out) == whole


@pytest.mark.parametrize("damage", ["a shard cut off", "numbers half removed", "no numbers at all"])
def test_what_is_not_whole_is_made_again(recipe, whole, tmp_path, damage):
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, shard_numbers, "remove", 1, after=damage == "no numbers at all")
        with pytest.raises(Stopped):
            merge_checkpoints(recipe, out, shard_bytes=SHARDS)
    left = staging_folder(out)
    if damage == "a shard cut off":
        cut(sorted(left.glob("*.safetensors"))[1])
    elif damage == "numbers half removed":
        sorted(left.glob(".*.numbers.json"))[1].unlink()
    else:
        (left / JSON_FILE).unlink()
    merge_checkpoints(recipe, out, shard_bytes=SHARDS)
    assert contents(out) == whole


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def test_what_another_merge_left_half_removed_is_not_taken_over(recipe, write_recipe, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, checkpoint, "write_report", 1, after=False)
        with pytest.raises(Stopped):
            merge_checkpoints(recipe, out, shard_bytes=SHARDS)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, staging.shutil, "rmtree", 1, after=False)
        with pytest.raises(Stopped):
            merge_checkpoints(write_recipe("other.yaml", seed=1), out)
    assert not (staging_folder(out) / STATE).exists()


def test_a_place_that_cannot_be_taken_is_said_and_nothing_loads(recipe, tmp_path, monkeypatch):
    def refused(self, target):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StoreError, match="Permission denied"):
        merge_checkpoints(recipe, tmp_path / "out")
    assert unfinished_that_loads(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("config.json", Path.unlink),
        ("*.index.json", Path.unlink),
        ("*.safetensors", Path.unlink),
        ("*.safetensors", cut),
    ],
)
def test_a_finished_folder_that_lacks_something_is_damaged(recipe, whole, tmp_path, pattern, damage):
    file = sorted((tmp_path / "whole").glob(pattern))[-1]
    damage(file)
    with pytest.raises(MergeError, match=f"damaged.*{file.name}") as raised:
        merge_checkpoints(recipe, tmp_path / "whole", shard_bytes=SHARDS)
    assert "remove the folder" in str(raised.value)
    shutil.rmtree(tmp_path / "whole")
    merge_checkpoints(recipe, tmp_path / "whole", shard_bytes=SHARDS)
    assert contents(tmp_path / "whole") == whole
