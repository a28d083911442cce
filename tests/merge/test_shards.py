"""Writing a checkpoint at known offsets."""

import json

import pytest
import torch
from safetensors import safe_open

from trivet.errors import StoreError
from trivet.merge.shards import Planned, ShardWriter, plan_shards, write_index

TENSORS = (
    Planned("a", (3, 4), torch.float32),
    Planned("b", (5,), torch.bfloat16),
    Planned("c", (), torch.int64),
    Planned("d", (0, 2), torch.float16),
)


def test_files_are_cut_at_the_size():
    assert [shard.file for shard in plan_shards(TENSORS, 10**9)] == ["model.safetensors"]
    shards = plan_shards(TENSORS, 20)
    assert [shard.file for shard in shards] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert [[tensor.name for tensor in shard.tensors] for shard in shards] == [["a"], ["b", "c", "d"]]


def test_blocks_land_where_the_library_reads_them(tmp_path):
    (shard,) = plan_shards(TENSORS, 10**9)
    a = torch.arange(12, dtype=torch.float32).view(3, 4)
    with ShardWriter(tmp_path, shard) as writer:
        writer.write("a", 4, a[1:])
        writer.write("c", 0, torch.tensor([[7]]))
        writer.write("b", 0, torch.ones(1, 5, dtype=torch.bfloat16))
        writer.write("a", 0, a[:1])
        writer.write("d", 0, torch.empty(0, 2, dtype=torch.float16))
        assert not (tmp_path / "model.safetensors").exists()
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("a"), a)
        assert torch.equal(file.get_tensor("b"), torch.ones(5, dtype=torch.bfloat16))
        assert int(file.get_tensor("c")) == 7 and file.get_tensor("d").shape == (0, 2)
        assert file.metadata() == {"format": "pt"}
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_an_error_leaves_nothing(tmp_path):
    (shard,) = plan_shards(TENSORS, 10**9)
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, shard):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    import errno
    import os

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    (shard,) = plan_shards(TENSORS, 10**9)
    with pytest.raises(StoreError, match="No space left"), ShardWriter(tmp_path, shard):
        pass
    assert not list(tmp_path.iterdir())


def test_the_index_names_every_tensor(tmp_path):
    shards = plan_shards(TENSORS, 20)
    write_index(tmp_path, shards)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 48 + 10 + 8
    assert index["weight_map"]["a"] == "model-00001-of-00002.safetensors" and len(index["weight_map"]) == 4
