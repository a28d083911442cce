"""``system.yaml``: what it may hold, and what is said when it is wrong."""

from pathlib import Path
from typing import Any

import pytest

from trivet.errors import ConfigError
from trivet.systems.spec import SystemSpec, load_spec


def write(folder: Path, text: str, name: str = "careful.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gives_name_model_and_defaults(tmp_path: Path) -> None:
    spec, folder = load_spec(write(tmp_path, "model: smollm2-135m-instruct\n"))
    assert folder == tmp_path
    assert (spec.name, spec.model, spec.engine) == ("careful", "smollm2-135m-instruct", "torch")
    assert spec.decode == {"method": "sampling"}
    assert spec.sampling.sampling().temperature == 0


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "rules.txt").write_text("Be kind.\n", encoding="utf-8")
    path = write(tmp_path, "model: weights\nsystem_prompt: {file: texts/rules.txt}\n")
    monkeypatch.chdir("/")
    spec, _ = load_spec(path)
    assert spec.model == str(tmp_path / "weights")
    assert spec.system_prompt == "Be kind."


def test_a_file_named_system_yaml_has_the_name_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "gentle one"
    folder.mkdir()
    write(folder, "model: m\n", "system.yaml")
    assert load_spec(folder / "system.yaml")[0].name == "gentle-one"
    assert load_spec(folder)[0].name == "gentle-one"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("owner/model.v2", "model.v2"),
        ("inspect:mockllm/model", "model"),
        ("openai:http://localhost:8000/v1#my model", "my-model"),
        ({"model": "a/b", "name": "given"}, "given"),
    ],
)
def test_names(source: Any, name: str) -> None:
    assert load_spec(source)[0].name == name


def test_a_method_may_be_a_bare_name() -> None:
    spec, _ = load_spec({"model": "m", "decode": "sampling", "guards": ["a", {"guard": "b", "k": 1}]})
    assert spec.decode == {"method": "sampling"}
    assert spec.guards == [{"guard": "a"}, {"guard": "b", "k": 1}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle: x\n", "unknown key 'modle'"),
        ("model: x\nsampling: {temprature: 1}\n", "did you mean 'temperature'"),
        ("model: x\nreasoning: {begin: a}\n", "did you mean|begin"),
        ("system_prompt: hi\n", "model: Field required"),
        ("model: [x]\n", "model: .*string"),
        ("model: x\nmax_tokens: 0\n", "max_tokens: .*greater than or equal to 1"),
        ("model: x\nmax_tokens: many\n", "max_tokens: .*integer"),
        ("model: x\nsampling: {top_p: 0}\n", "top_p"),
        ("model: x\nsampling: {logit_bias: {3: 200}}\n", "biases −100 to 100"),
        ("model: x\nengine: tensorflow\n", "no such engine"),
        ("model: x\nengine: torhc\n", "did you mean 'torch'"),
        ("model: x\nsystem_prompt: {file: gone.txt}\n", "no such file: .*gone.txt"),
        ("model: x\nsystem_prompt: {path: a.txt}\n", "give the text itself"),
        ("model: x\ndecode: {n: 4}\n", "'method' must name the method"),
        ("model: x\nreasoning: {start: t, end: t}\n", "start and end must differ"),
        ("model: x\nmodel: y\n", "given twice"),
        ("- model: x\n", "must be a mapping"),
        ("model: 'x\n", "not valid YAML"),
        ("model: x\nname: ../up\n", "name: "),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_spec(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: x\nsystem_prompt: café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8: byte 0xe9 in line 2\n.*save the file"):
        load_spec(tmp_path / "latin.yaml")


def test_a_spec_is_frozen() -> None:
    spec = SystemSpec.model_validate({"model": "m"})
    with pytest.raises(ValueError, match="frozen"):
        spec.model = "other"  # type: ignore[misc]


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "examples/systems").glob("*.yaml")))
def test_every_example_is_valid(path: Path) -> None:
    spec, _ = load_spec(path)
    assert spec.name == path.stem
