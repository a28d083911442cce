"""Reading rows of safetensors files: what the library reads, and damage is named."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from trivet.errors import ModelError
from trivet.merge.weights import INDEX, TensorFiles, Weights, read_header


def write(folder, tensors, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name, metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 3), (2, 3, 4), (0, 3)])
def test_any_rows_of_any_tensor(tmp_path, dtype, shape):
    value = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    weights = Weights(write(tmp_path / "m", {"a": value, "b": torch.ones(3)}))
    matrix = value.reshape(-1, shape[-1] if shape else 1).float()
    assert torch.equal(weights.read("a"), matrix)
    for row in range(len(matrix)):
        for rows in range(1, len(matrix) - row + 1):
            assert torch.equal(weights.read("a", row, rows), matrix[row : row + rows])
    weights.close()


def test_sharded_weights(tmp_path):
    folder = write(tmp_path / "m", {"a": torch.ones(2)}, "model-00001-of-00002.safetensors")
    write(folder, {"b": torch.zeros(3)}, "model-00002-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    weights = Weights(folder)
    assert set(weights.entries) == {"a", "b"} and len(weights.files) == 2
    (folder / INDEX).write_text(json.dumps({"weight_map": {**names, "c": names["b"]}}))
    with pytest.raises(ModelError, match="holds c; it does not"):
        Weights(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(ModelError, match="outside its folder"):
        Weights(folder)
    (folder / names["b"]).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelError, match="No such file"):
        Weights(folder)


def header(**entry):
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header is not there"),
        (b"\x01", "header is not there"),
        (struct.pack("<Q", 2**60) + b"{}", "header is not there"),
        (struct.pack("<Q", 2) + b"[]" + b"\0" * 8, "not a whole"),
        (struct.pack("<Q", 3) + b"{,}", "not a whole"),
        (header() + b"\0" * 7, "ends before a does"),
        (header(shape=[3]) + b"\0" * 8, "do not fit its shape"),
        (header(shape=[-2]) + b"\0" * 8, "do not fit its shape"),
        (header(dtype="F99") + b"\0" * 8, "F99"),
        (header(data_offsets=[-8, 0]) + b"\0" * 8, "do not fit its shape"),
        (header(data_offsets=None) + b"\0" * 8, "not a whole"),
    ],
)
def test_damage_is_named_with_the_file(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError) as raised:
        read_header(path)
    assert str(path) in str(raised.value) and message in str(raised.value)


def test_a_file_that_shrinks_is_noticed(tmp_path):
    path = write(tmp_path / "m", {"a": torch.ones(1000)}) / "model.safetensors"
    files = TensorFiles(read_header(path))
    with path.open("r+b") as stream:
        stream.truncate(200)
    with pytest.raises(ModelError, match="shorter"):
        files.read("a")
    files.close()


def tied(folder, tensors, **config):
    write(folder, tensors)
    (folder / "config.json").write_text(json.dumps(config))
    weights = Weights(folder)
    try:
        return weights.tied
    finally:
        weights.close()


TABLE = torch.arange(12.0).view(4, 3)


@pytest.mark.parametrize(
    ("config", "stored", "expected"),
    [
        ({"tie_word_embeddings": True}, None, True),
        ({"tie_word_embeddings": False}, None, False),
        ({"text_config": {"tie_word_embeddings": True}}, None, True),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, None, False),
        ({}, None, True),  # there is nothing else that it could be
        ({"model_type": "gpt2"}, TABLE, True),
        ({"model_type": "gemma"}, TABLE, True),
        ({"model_type": "gpt2", "tie_word_embeddings": False}, TABLE, False),
        ({"model_type": "llama"}, TABLE, False),
        ({"model_type": "none of transformers'"}, TABLE, False),
        ({"model_type": ["gpt2"]}, TABLE, False),
        ({"model_type": "gpt2"}, TABLE + 1, False),  # transformers does not tie what differs
        ({"tie_word_embeddings": True}, TABLE, True),
        ({"tie_word_embeddings": True}, TABLE + 1, False),
        ({"tie_word_embeddings": True}, TABLE.half(), False),
        ({"tie_word_embeddings": True}, TABLE[:3], False),
    ],
)
def test_whether_the_output_layer_is_the_embedding(tmp_path, config, stored, expected):
    tensors = {"transformer.wte.weight": TABLE}
    if stored is not None:
        tensors["lm_head.weight"] = stored.clone()
    assert tied(tmp_path / "m", tensors, **config) is expected


def test_the_whole_output_layer_is_compared(tmp_path, monkeypatch):
    from trivet.merge import weights

    monkeypatch.setattr(weights, "_COMPARED", 4)
    last = TABLE.clone()
    last[3, 2] += 1
    table = {"model.embed_tokens.weight": torch.full((4, 3), float("nan"))}
    assert tied(
        tmp_path / "a", table | {"lm_head.weight": table["model.embed_tokens.weight"].clone()},
        tie_word_embeddings=True,
    )  # fmt: skip
    assert not tied(
        tmp_path / "b", {"model.embed_tokens.weight": TABLE, "lm_head.weight": last}, tie_word_embeddings=True
    )
