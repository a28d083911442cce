"""Engines are shared by content."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trivet.errors import ConfigError, UnsupportedError
from trivet.models.engine import Engine
from trivet.models.engines import close_engines, get_engine


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_engines()


def test_the_same_weights_are_loaded_once(tiny_model_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model_folder, tmp_path / "copy")
    first = get_engine(str(tiny_model_folder))
    assert isinstance(first, Engine)
    assert get_engine(str(copy)) is first
    assert get_engine(str(copy), engine="auto") is first
    assert get_engine(str(copy), dtype="bfloat16") is not first
    close_engines()
    assert get_engine(str(copy)) is not first


def test_models_beside_the_first(tiny_model: Any, tiny_model_folder: Path, tmp_path: Path) -> None:
    other = str(tiny_model("llama", seed=3))
    both = get_engine(str(tiny_model_folder), auxiliary={"other": other})
    assert both is not get_engine(str(tiny_model_folder))
    assert both is get_engine(str(tiny_model_folder), auxiliary={"other": other})
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(UnsupportedError, match="several models"):
        get_engine(str(file), engine="auto", auxiliary={"other": other})


def test_wrong_engines(tmp_path: Path, tiny_model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown engine 'torc'"):
        get_engine(str(tiny_model_folder), engine="torc")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(UnsupportedError, match="llamacpp"):
        get_engine(str(file), engine="torch")
