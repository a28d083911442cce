"""``trivet report`` as a user calls it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trivet.cli import root
from trivet.study.address import Description
from trivet.study.results import Analysis, Estimate, LegResult, StudyResults
from trivet.study.store import Store


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(root, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def results(name: str) -> StudyResults:
    leg = LegResult(system="base", leg="helpful", estimate=Estimate(value=0.5, reason="one question"))
    return StudyResults.from_analysis(
        Analysis(reference="base", legs=[leg]), study=name, seed=1, created="2026-01-31T12:00:00+00:00"
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two finished studies; ``second`` ran last."""
    store = Store(tmp_path / "store")
    with store.driver():
        for hour, name in enumerate(("first", "second")):
            description = Description(method="study/analyse", version=1, config={"name": name})
            with store.writing(description, study=name, step="analyse") as folder:
                results(name).write(folder / "results.json")
            record = {"addresses": [description.address], "results": description.address}
            store.record_study(name, {**record, "finished": f"2026-01-31T1{hour}:00:00+00:00"})
    return store.path


def test_the_study_that_ran_last_is_built(store):
    path = Path(invoke("report", store).strip())
    assert path == store / "report.html"
    assert "<title>second" in path.read_text()


def test_another_study_and_another_file(store, tmp_path):
    path = Path(invoke("report", store, "--study", "first").strip())
    assert path == store / "report-first.html"
    assert "<title>first" in path.read_text()
    invoke("report", store, "--study", "first", "--output", tmp_path / "x.html")
    assert (tmp_path / "x.html").is_file()


def test_json_prints_the_numbers_and_writes_nothing(store):
    numbers = json.loads(invoke("report", store, "--json"))
    assert numbers["study"] == "second"
    assert numbers["legs"][0]["estimate"]["value"] == 0.5
    assert not (store / "report.html").exists()


def test_a_plain_folder_with_results(tmp_path):
    results("moved").write(tmp_path / "results.json")
    assert "moved" in Path(invoke("report", tmp_path).strip()).read_text()


def test_mistakes_are_answered(store, tmp_path):
    assert "did you mean 'first'" in invoke("report", store, "--study", "frist", code=2)
    assert "is not a store" in invoke("report", tmp_path / "nowhere", code=2)
    assert "holds no finished study" in invoke("report", Store(tmp_path / "new").path, code=2)
    for path in store.glob("objects/*/results.json"):
        path.unlink()
    assert "missing or damaged" in invoke("report", store, code=2)
